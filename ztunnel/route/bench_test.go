// SPDX-License-Identifier: Apache-2.0

package route

import (
	"net/netip"
	"testing"

	"github.com/warren-mesh/warren/mesh"
)

// BenchmarkDecide is what a connection to a service of three endpoints pays for its decision.
func BenchmarkDecide(b *testing.B) {
	vip, name := netip.MustParseAddr("10.96.0.1"), mesh.Name{Namespace: "shop", Name: "web"}
	changes := []mesh.Change{mesh.PutService{Service: &mesh.Service{
		Namespace: "shop", Name: "web", Addresses: []netip.Addr{vip}, Ports: []mesh.ServicePort{{Port: 80, TargetPort: 8080}}}}}
	for i := range 3 {
		changes = append(changes, mesh.PutWorkload{Workload: &mesh.Workload{
			UID: string(rune('a' + i)), Namespace: "shop", Name: "web", ServiceAccount: "web", Ready: true, Capture: mesh.Captured,
			Addresses: []netip.Addr{netip.AddrFrom4([4]byte{10, 1, 0, byte(i)})}, Services: map[mesh.Name]mesh.EndpointPorts{name: {80: 8080}},
		}})
	}
	snap := mesh.NewSnapshot().With(changes...)
	q := Query{Source: &mesh.Workload{UID: "client"}, Destination: netip.AddrPortFrom(vip, 80), SameNode: "n"}
	b.ReportAllocs()
	for b.Loop() {
		if d := Decide(snap, q); d.Action != Tunnel {
			b.Fatal(d)
		}
	}
}
