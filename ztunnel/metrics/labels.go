// SPDX-License-Identifier: Apache-2.0

// Package metrics counts connections under Istio's names and labels, so that dashboards made for them work,
// and under Warren's reasons. A connection looks its handles up once and then only adds to them.
package metrics

import (
	"github.com/warren-mesh/warren/mesh"
	"github.com/warren-mesh/warren/mesh/reason"
)

// Reporter says which end of a connection counts.
type Reporter string

const (
	// Source is the ztunnel of the client pod.
	Source Reporter = "source"
	// Destination is the ztunnel of the server pod.
	Destination Reporter = "destination"
)

// Peer is what labels tell of one end.
type Peer struct {
	Workload, CanonicalService, CanonicalRevision, Namespace, Principal, Cluster, Region, Zone string
}

// PeerOf describes a workload as far as it is known. principal is the identity that was proven, and zero
// where none was: a label never claims more than the handshake did.
func PeerOf(w *mesh.Workload, principal mesh.Identity) Peer {
	p := Peer{Principal: principal.String()}
	if w == nil {
		p.Namespace = principal.Namespace
		return p
	}
	p.Workload, p.Namespace, p.Cluster, p.Region, p.Zone = w.WorkloadName, w.Namespace, w.Cluster, w.Region, w.Zone
	if p.Workload == "" {
		p.Workload = w.Name
	}
	p.CanonicalService, p.CanonicalRevision = w.CanonicalName, w.CanonicalRevision
	return p
}

// Labels name one series of the connection metrics. Comparable: it is the key of the series.
type Labels struct {
	Reporter            Reporter
	Source, Destination Peer
	// Service the client addressed; zero when it addressed none.
	ServiceHost string
	Service     mesh.Name
	// Mutual: the connection was carried by mutual TLS.
	Mutual bool
	Reason reason.Reason
}

var labelNames = []string{
	"reporter",
	"source_workload", "source_canonical_service", "source_canonical_revision", "source_workload_namespace",
	"source_principal", "source_app", "source_version", "source_cluster", "source_region", "source_zone",
	"destination_service", "destination_service_namespace", "destination_service_name",
	"destination_workload", "destination_canonical_service", "destination_canonical_revision", "destination_workload_namespace",
	"destination_principal", "destination_app", "destination_version", "destination_cluster", "destination_region", "destination_zone",
	"request_protocol", "response_flags", "connection_security_policy",
}

// values are those of labelNames.
func (l *Labels) values() []string {
	security := "unknown"
	if l.Mutual {
		security = "mutual_tls"
	}
	v := make([]string, 0, len(labelNames))
	v = append(v, string(l.Reporter))
	v = l.Source.append(v)
	v = append(v, known(l.ServiceHost), known(l.Service.Namespace), known(l.Service.Name))
	v = l.Destination.append(v)
	return append(v, "tcp", responseFlags(l.Reason), security)
}

func (p *Peer) append(v []string) []string {
	return append(v, known(p.Workload), known(p.CanonicalService), known(p.CanonicalRevision), known(p.Namespace), known(p.Principal),
		known(p.CanonicalService), known(p.CanonicalRevision), known(p.Cluster), known(p.Region), known(p.Zone))
}

func known(s string) string {
	if s == "" {
		return "unknown"
	}
	return s
}

// noFlag is the response flag of what Istio has no word for.
const noFlag = "-"

// responseFlags is Istio's word for a reason.
func responseFlags(r reason.Reason) string {
	switch r {
	case reason.PolicyDeny, reason.PolicyNoAllow, reason.PolicyUnknown, reason.StrictMTLS, reason.PlaintextFromMesh, reason.PolicyChanged:
		return "DENY"
	case reason.ConnectFailure, reason.NoSocket, reason.PeerRefused:
		return "CONNECT"
	case reason.TLSFailure:
		return "TLS_FAILURE"
	case reason.IdentityMismatch, reason.NoCertificate:
		return "IDENTITY_ERROR"
	case reason.CertificateRevoked:
		return "CERT_REVOKED"
	case reason.NetworkPolicy:
		return "NETWORK_POLICY"
	}
	return noFlag
}
