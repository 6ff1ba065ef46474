// SPDX-License-Identifier: Apache-2.0

package proxy

import (
	"net/netip"
	"strings"

	"github.com/warren-mesh/warren/mesh"
)

// baggage describes a workload in CONNECT and its answer; absent values are left out.
func baggage(w *mesh.Workload) string {
	if w == nil {
		return ""
	}
	kind := w.WorkloadType
	if kind == "" {
		kind = "pod"
	}
	name := w.WorkloadName
	if name == "" {
		name = w.Name
	}
	var b strings.Builder
	for _, kv := range [...][2]string{
		{"k8s.cluster.name", w.Cluster}, {"k8s.namespace.name", w.Namespace}, {"k8s." + kind + ".name", name},
		{"service.name", w.CanonicalName}, {"service.version", w.CanonicalRevision},
		{"cloud.region", w.Region}, {"cloud.availability_zone", w.Zone},
	} {
		if kv[1] == "" {
			continue
		}
		if b.Len() > 0 {
			b.WriteByte(',')
		}
		b.WriteString(kv[0])
		b.WriteByte('=')
		b.WriteString(kv[1])
	}
	return b.String()
}

// forwarded tells the far end which connection of the application this is.
func forwarded(src netip.AddrPort, service *mesh.Service) string {
	s := `for="` + src.String() + `"`
	if service != nil && service.Hostname != "" {
		s += ";host=" + service.Hostname
	}
	return s
}

// forwardedFor reads the address of the first for= parameter (RFC 7239); the zero value when there is none.
func forwardedFor(s string) netip.AddrPort {
	first, _, _ := strings.Cut(s, ",")
	for pair := range strings.SplitSeq(first, ";") {
		key, value, _ := strings.Cut(strings.TrimSpace(pair), "=")
		if !strings.EqualFold(key, "for") {
			continue
		}
		value = strings.TrimSuffix(strings.TrimPrefix(value, `"`), `"`)
		if a, err := netip.ParseAddrPort(value); err == nil {
			return netip.AddrPortFrom(a.Addr().Unmap(), a.Port())
		}
	}
	return netip.AddrPort{}
}

// clientOf is what the application is shown as its peer: the tunnel's peer, with the client's own port where
// the request tells it. Only the port is believed, and only for the peer's own address.
func clientOf(header string, peer netip.AddrPort) netip.AddrPort {
	if f := forwardedFor(header); f.IsValid() && f.Addr() == peer.Addr() && f.Port() != 0 {
		return f
	}
	return peer
}
