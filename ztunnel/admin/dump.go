// SPDX-License-Identifier: Apache-2.0

package admin

import (
	"math/big"
	"net/http"
	"strings"
	"time"

	"github.com/warren-mesh/warren/mesh/dump"
	"github.com/warren-mesh/warren/ztunnel/identity"
	"github.com/warren-mesh/warren/ztunnel/proxy"
)

func (s Sources) configDump(w http.ResponseWriter, _ *http.Request) {
	writeJSON(w, dump.Ztunnel{
		Snapshot: dump.Of(s.Snapshot()), StagedServices: map[string]any{}, StaticConfig: map[string]any{},
		Version: map[string]string{"version": s.Version, "node": s.Node}, Config: s.Settings,
		Certificates: certificates(s.Certificates()), WorkloadState: states(s.Pods()),
	})
}

func (s Sources) connections(w http.ResponseWriter, _ *http.Request) { writeJSON(w, states(s.Pods())) }

func certificates(in []identity.Info) []dump.Certificate {
	out := make([]dump.Certificate, 0, len(in))
	for _, i := range in {
		c := dump.Certificate{Identity: i.Identity.String(), State: string(i.State), Chain: []dump.CertificateInfo{}, Renew: i.Renew, Error: i.Error}
		if i.Serial != "" {
			c.Chain = append(c.Chain, dump.CertificateInfo{Serial: decimal(i.Serial), NotBefore: i.NotBefore, NotAfter: i.NotAfter})
		}
		out = append(out, c)
	}
	return out
}

// decimal is how ambient writes a serial number.
func decimal(hex string) string {
	n, ok := new(big.Int).SetString(hex, 16)
	if !ok {
		return ""
	}
	return n.String()
}

func states(pods []proxy.PodInfo) map[string]dump.WorkloadState {
	out := make(map[string]dump.WorkloadState, len(pods))
	for _, p := range pods {
		state := "Up"
		switch {
		case p.Leaving:
			state = "Draining"
		case !p.Known || len(p.Listeners) == 0:
			state = "Pending"
		}
		out[p.UID] = dump.WorkloadState{
			State: state, Listeners: append([]string{}, p.Listeners...),
			Info:        dump.WorkloadInfo{Name: p.Name.Name, Namespace: p.Name.Namespace, TrustDomain: p.Identity.TrustDomain, ServiceAccount: p.Identity.ServiceAccount},
			Connections: dump.Connections{Inbound: convert(p.Inbound), Outbound: convert(p.Outbound)},
		}
	}
	return out
}

func convert(in []proxy.ConnectionInfo) []dump.Connection {
	out := make([]dump.Connection, 0, len(in))
	for _, c := range in {
		addr := func(valid bool, s string) string {
			if !valid {
				return ""
			}
			return s
		}
		out = append(out, dump.Connection{
			ID: c.ID, Src: addr(c.Src.IsValid(), c.Src.String()), OriginalDst: addr(c.Target.IsValid(), c.Target.String()),
			ActualDst: addr(c.Dst.IsValid(), c.Dst.String()), Protocol: strings.ToUpper(c.Protocol), Peer: c.Peer, Reason: c.Reason,
			Open: c.Open.Round(time.Millisecond).String(), Established: c.Bound,
			BytesSent: c.Sent, BytesReceived: c.Received,
		})
	}
	return out
}
