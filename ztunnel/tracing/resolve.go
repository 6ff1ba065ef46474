// SPDX-License-Identifier: Apache-2.0

package tracing

import (
	"fmt"
	"net"
	"net/netip"
	"strconv"
	"strings"

	"github.com/warren-mesh/warren/mesh"
	"github.com/warren-mesh/warren/ztunnel/lb"
)

// resolve finds the addresses of host:port among the mesh's own objects: a sealed process asks no DNS. host is an IP
// address or a Service: name.namespace, with .svc and the cluster's domain or without.
func resolve(snap *mesh.Snapshot, hostPort, node string) ([]netip.AddrPort, error) {
	host, p, err := net.SplitHostPort(hostPort)
	if err != nil {
		return nil, err
	}
	port, err := strconv.ParseUint(p, 10, 16)
	if err != nil || port == 0 {
		return nil, fmt.Errorf("%s: want a port from 1 to 65535", hostPort)
	}
	if a, err := netip.ParseAddr(host); err == nil {
		return []netip.AddrPort{netip.AddrPortFrom(a, uint16(port))}, nil
	}
	svc := service(snap, strings.TrimSuffix(host, "."))
	if svc == nil {
		return nil, fmt.Errorf("%s: no Service of the cluster, and no IP address", host)
	}
	var like netip.Addr
	if len(svc.Addresses) > 0 {
		like = svc.Addresses[0]
	}
	var out []netip.AddrPort
	c := lb.Gather(snap, svc, uint16(port), like, node, nil)
	for _, e := range append(c.Usable, c.Pending...) { // by plain TCP, whether it is captured or not
		out = append(out, e.Target)
	}
	if len(out) == 0 {
		return nil, fmt.Errorf("%s: the Service has no ready endpoint for port %d", host, port)
	}
	return out, nil
}

func service(snap *mesh.Snapshot, host string) *mesh.Service {
	if s := snap.ServiceByHostname(host); s != nil {
		return s
	}
	name, rest, _ := strings.Cut(host, ".")
	namespace, rest, _ := strings.Cut(rest, ".")
	if rest != "" && rest != "svc" {
		return nil
	}
	return snap.Service(mesh.Name{Namespace: namespace, Name: name})
}
