// SPDX-License-Identifier: Apache-2.0

package tracing

import (
	"cmp"
	"net/netip"
	"time"

	"github.com/warren-mesh/warren/mesh"
	"github.com/warren-mesh/warren/mesh/reason"
)

// Kind says which end of the connection a span tells of.
type Kind uint8

const (
	// Client is the end that opened the connection.
	Client Kind = iota
	// Server is the end that took it.
	Server
)

// Peer is a workload at one end. Fields that are not known are empty.
type Peer struct {
	Pod, PodUID, Namespace string
	Workload, WorkloadType string
	// Service and Version are its canonical ones.
	Service, Version string
	Cluster          string
	// Identity that its certificate proved.
	Identity string
}

// PeerOf describes a workload as far as it is known; proven is zero where no certificate was shown.
func PeerOf(w *mesh.Workload, proven mesh.Identity) Peer {
	p := Peer{Identity: proven.String()}
	if w == nil {
		p.Namespace = proven.Namespace
		return p
	}
	p.Pod, p.PodUID, p.Namespace, p.Cluster = w.Name, w.PodUID, w.Namespace, w.Cluster
	p.Workload, p.WorkloadType = cmp.Or(w.WorkloadName, w.Name), w.WorkloadType
	p.Service, p.Version = cmp.Or(w.CanonicalName, p.Workload), w.CanonicalRevision
	return p
}

// Span is one end of a connection that is over.
type Span struct {
	Context Context
	// Parent is the span of the client's end, zero for none.
	Parent     [8]byte
	Kind       Kind
	Start, End time.Time
	// Local is the pod this ztunnel speaks for, Remote the other end.
	Local, Remote Peer
	// Source and Destination are the addresses of the connection, as the access log has them.
	Source, Destination netip.AddrPort
	// Host is the service the client addressed, "" for none.
	Host           string
	Sent, Received uint64 // bytes, from the pod's side
	// Encrypted: by mutual TLS.
	Encrypted bool
	Reason    reason.Reason
	Policy    string // that refused it
	Err       error  // nil for a connection that ended in order
}

// Name is what spans of one kind share: never an address.
func (s *Span) Name() string {
	switch server := s.server(); {
	case s.Host != "":
		return "tcp " + s.Host
	case server.Workload != "":
		return "tcp " + server.Workload + "." + server.Namespace
	}
	return "tcp"
}

// client and server are the ends.
func (s *Span) client() *Peer {
	if s.Kind == Client {
		return &s.Local
	}
	return &s.Remote
}

func (s *Span) server() *Peer {
	if s.Kind == Client {
		return &s.Remote
	}
	return &s.Local
}

// attributes calls f for each attribute that has a value, a string or an int64, by OpenTelemetry's semantic
// conventions where they have a word.
func (s *Span) attributes(f func(key string, value any)) {
	word := func(key, v string) {
		if v != "" {
			f(key, v)
		}
	}
	f("network.transport", "tcp")
	if a := s.Destination.Addr(); a.Unmap().Is4() {
		f("network.type", "ipv4")
	} else if a.IsValid() {
		f("network.type", "ipv6")
	}
	addr := func(prefix string, a netip.AddrPort) {
		if a.IsValid() {
			f(prefix+".address", a.Addr().Unmap().String())
			f(prefix+".port", int64(a.Port()))
		}
	}
	addr("source", s.Source)
	addr("destination", s.Destination)
	word("server.address", s.Host)
	word("peer.service", s.Remote.Service)
	peer := func(end string, p *Peer) {
		word(end+".workload", p.Workload)
		word(end+".namespace", p.Namespace)
		word(end+".identity", p.Identity)
	}
	peer("warren.source", s.client())
	peer("warren.destination", s.server())
	f("warren.bytes_sent", int64(s.Sent))
	f("warren.bytes_received", int64(s.Received))
	f("warren.reason", s.Reason.String())
	word("warren.policy", s.Policy)
	security := "none"
	if s.Encrypted {
		security = "mutual_tls"
	}
	f("warren.security", security)
	if s.Err != nil {
		f("error.type", s.Reason.String())
	}
}
