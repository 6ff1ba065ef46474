// SPDX-License-Identifier: Apache-2.0

package authz

import (
	"fmt"
	"net/netip"
	"testing"

	"github.com/warren-mesh/warren/mesh"
)

// kinds of policies, of which there may be many: the i-th matches what the i-th connection shows.
var kinds = []struct {
	name string
	rule func(i int) mesh.Match
}{
	{"principal", func(i int) mesh.Match { return mesh.Match{Principals: exact(caller(i).Principal())} }},
	{"account", func(i int) mesh.Match {
		return mesh.Match{ServiceAccounts: []mesh.Name{name(caller(i).Namespace, caller(i).ServiceAccount)}}
	}},
	{"namespace", func(i int) mesh.Match { return mesh.Match{Namespaces: exact(caller(i).Namespace)} }},
	{"address", func(i int) mesh.Match { return mesh.Match{SourceIPs: []netip.Prefix{netip.PrefixFrom(from(i), 32)}} }},
	{"beginning", func(i int) mesh.Match {
		return mesh.Match{Principals: []mesh.StringMatch{{Kind: mesh.MatchPrefix, Value: "cluster.local/ns/" + caller(i).Namespace + "/"}}}
	}},
	{"port and namespace", func(i int) mesh.Match {
		return mesh.Match{DestinationPorts: []uint16{8080}, Namespaces: exact(caller(i).Namespace)}
	}},
}

func caller(i int) mesh.Identity {
	return mesh.Identity{TrustDomain: "cluster.local", Namespace: fmt.Sprintf("ns%05d", i), ServiceAccount: "app"}
}

func from(i int) netip.Addr { return netip.AddrFrom4([4]byte{10, 1, byte(i >> 8), byte(i)}) }

// many are n policies that all select the workload: half refuse somebody, half allow somebody.
func many(n int, rule func(int) mesh.Match) (*mesh.Snapshot, *mesh.Workload) {
	var changes []mesh.Change
	dst := &mesh.Workload{UID: "u", Namespace: "b"}
	for i := range n {
		p := &mesh.Policy{Name: name("b", fmt.Sprintf("p%05d", i)), Scope: mesh.ScopeWorkload, Action: mesh.Action(i % 2), Rules: one(rule(i))}
		changes = append(changes, mesh.PutPolicy{Policy: p})
		dst.Policies = append(dst.Policies, p.Name)
	}
	return mesh.NewSnapshot().With(changes...), dst
}

// BenchmarkPolicies is the cost of policy for one connection among 64 that are not the same.
func BenchmarkPolicies(b *testing.B) {
	for _, k := range kinds {
		for _, n := range []int{10, 10000} {
			b.Run(fmt.Sprintf("%s/%d", k.name, n), func(b *testing.B) {
				snap, dst := many(n, k.rule)
				var conns []Connection
				for i := range 64 {
					j := i * n / 64
					conns = append(conns, Connection{Identity: caller(j), Source: from(j), Destination: netip.MustParseAddrPort("10.2.0.9:8080")})
				}
				var e Evaluator
				e.Evaluate(snap, dst, conns[0])
				b.ReportAllocs()
				i := 0
				for b.Loop() {
					e.Evaluate(snap, dst, conns[i%len(conns)])
					i++
				}
			})
		}
	}
}

// BenchmarkCompile is what the first connection after a change of policy pays besides.
func BenchmarkCompile(b *testing.B) {
	for _, n := range []int{10, 10000} {
		b.Run(fmt.Sprint(n), func(b *testing.B) {
			snap, dst := many(n, kinds[0].rule)
			for b.Loop() {
				compile(snap, dst)
			}
		})
	}
}
