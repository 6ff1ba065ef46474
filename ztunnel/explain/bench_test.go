// SPDX-License-Identifier: Apache-2.0

package explain

import (
	"fmt"
	"net/netip"
	"testing"

	"github.com/warren-mesh/warren/mesh"
)

// BenchmarkLarge is the worst that may be asked of a ztunnel that is busy otherwise: a service of 1,000 endpoints, to
// which 10,000 policies apply.
func BenchmarkLarge(b *testing.B) {
	big := mesh.Name{Namespace: "shop", Name: "big"}
	changes := []mesh.Change{mesh.PutService{Service: &mesh.Service{Namespace: "shop", Name: "big", Addresses: []netip.Addr{netip.MustParseAddr("10.96.0.9")},
		Ports: []mesh.ServicePort{{Port: 80}}}}}
	for i := range 10000 {
		changes = append(changes, mesh.PutPolicy{Policy: &mesh.Policy{Name: mesh.Name{Namespace: "shop", Name: fmt.Sprint("p", i)}, Scope: mesh.ScopeNamespace,
			Rules: []mesh.Rule{{Clauses: []mesh.Clause{{Matches: []mesh.Match{{Namespaces: []mesh.StringMatch{{Value: fmt.Sprint("n", i)}}}}}}}}}})
	}
	for i := range 1000 {
		changes = append(changes, mesh.PutWorkload{Workload: &mesh.Workload{UID: fmt.Sprint(i), Namespace: "shop", Name: fmt.Sprint("big", i), ServiceAccount: "big",
			Ready: true, Capture: mesh.Captured, Addresses: []netip.Addr{netip.AddrFrom4([4]byte{10, 3, byte(i >> 8), byte(i)})},
			Services: map[mesh.Name]mesh.EndpointPorts{big: {80: 8080}}}})
	}
	snap := shop().With(changes...)
	e := Explainer{Snapshot: func() *mesh.Snapshot { return snap }}
	b.ReportAllocs()
	for b.Loop() {
		if a, err := e.Explain(Query{Source: "shop/client", Destination: "shop/big", Port: 80}); err != nil || len(a.Outcomes) != most || a.Omitted != 1000-most {
			b.Fatal(err, len(a.Outcomes), a.Omitted)
		}
	}
}
