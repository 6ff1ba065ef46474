// SPDX-License-Identifier: Apache-2.0

package explain

import (
	"fmt"
	"math/rand/v2"
	"net/netip"
	"time"

	"github.com/warren-mesh/warren/mesh"
)

// dice makes meshes that differ in everything a decision looks at.
type dice struct{ *rand.Rand }

func (d dice) one(in int) bool { return d.IntN(in) == 0 }

func pick[T any](d dice, of ...T) T { return of[d.IntN(len(of))] }

func v4(i int) netip.Addr { return netip.AddrFrom4([4]byte{10, 1, 0, byte(i)}) }
func v6(i int) netip.Addr { return netip.MustParseAddr(fmt.Sprintf("fd00:1::%x", i)) }

const workloads, services = 7, 4

func serviceName(i int) mesh.Name {
	return mesh.Name{Namespace: []string{"a", "b"}[i%2], Name: fmt.Sprintf("s%d", i)}
}

func (d dice) mesh() *mesh.Snapshot {
	changes := []mesh.Change{mesh.PutConfig{Config: &mesh.Config{
		ClusterCIDRs: []netip.Prefix{netip.MustParsePrefix("10.0.0.0/8"), netip.MustParsePrefix("fd00::/8")},
		Exceptions:   []netip.Prefix{netip.MustParsePrefix("10.1.9.0/24"), netip.PrefixFrom(v4(6), 32)},
	}}}
	for i := range services {
		n := serviceName(i)
		s := &mesh.Service{Namespace: n.Namespace, Name: n.Name, Hostname: n.Name + "." + n.Namespace + ".svc.cluster.local",
			Ports: []mesh.ServicePort{{Port: 80, TargetPort: 8080}, {Port: 443}}, PublishNotReady: d.one(4)}
		if i > 0 {
			s.Addresses = []netip.Addr{netip.AddrFrom4([4]byte{10, 96, 0, byte(i)}), netip.MustParseAddr(fmt.Sprintf("fd00:96::%x", i))}
		}
		if d.one(6) {
			s.Waypoint = serviceName(d.IntN(services))
		}
		if d.one(5) {
			s.SubjectAltNames = []string{"spiffe://elsewhere/ns/x/sa/y"}
		}
		changes = append(changes, mesh.PutService{Service: s})
	}
	var policies []mesh.Name
	for i := range d.IntN(8) {
		p := d.policy(i)
		policies = append(policies, p.Name)
		changes = append(changes, mesh.PutPolicy{Policy: p})
	}
	for i := range workloads {
		changes = append(changes, mesh.PutWorkload{Workload: d.workload(i, policies)})
	}
	return mesh.NewSnapshot().With(changes...)
}

func (d dice) workload(i int, policies []mesh.Name) *mesh.Workload {
	w := &mesh.Workload{
		UID: fmt.Sprintf("c//Pod/%d", i), PodUID: fmt.Sprintf("pod%d", i), Namespace: pick(d, "a", "b"), Name: fmt.Sprintf("w%d", i),
		Node: pick(d, "n1", "n2"), ServiceAccount: pick(d, "x", "y", "z"), Ready: !d.one(4), HostNetwork: d.one(12),
		Capture:         pick(d, mesh.Captured, mesh.Captured, mesh.Captured, mesh.Captured, mesh.Outside, mesh.Pending, mesh.ReadyBeforeEnrolled),
		CapturedRunning: d.one(3), CapturedAt: now.Add(-pick(d, time.Second, time.Minute)),
		Services: map[mesh.Name]mesh.EndpointPorts{},
	}
	if d.one(15) {
		w.ServiceAccount = ""
	}
	w.Addresses = pick(d, []netip.Addr{v4(i), v6(i)}, []netip.Addr{v4(i), v6(i)}, []netip.Addr{v4(i)}, []netip.Addr{v6(i)})
	for s := range services {
		if d.one(2) {
			w.Services[serviceName(s)] = pick(d, mesh.EndpointPorts{80: 8080}, mesh.EndpointPorts{80: 8080, 443: 8443}, mesh.EndpointPorts{443: 15008}, mesh.EndpointPorts{})
		}
	}
	for _, n := range policies {
		if d.one(3) {
			w.Policies = append(w.Policies, n)
		}
	}
	if d.one(20) {
		w.Policies = append(w.Policies, mesh.Name{Namespace: w.Namespace, Name: "unknown"})
	}
	return w
}

func (d dice) policy(i int) *mesh.Policy {
	p := &mesh.Policy{
		Name: mesh.Name{Namespace: pick(d, "a", "b", "warren-system"), Name: fmt.Sprintf("p%d", i)}, Scope: pick(d, mesh.ScopeMesh, mesh.ScopeNamespace, mesh.ScopeWorkload, mesh.ScopeWorkload),
		Action: pick(d, mesh.Allow, mesh.Allow, mesh.Deny, mesh.Audit), DryRun: d.one(5),
	}
	for range d.IntN(3) {
		var r mesh.Rule
		for range d.IntN(3) {
			var c mesh.Clause
			for range d.IntN(3) {
				c.Matches = append(c.Matches, d.match())
			}
			r.Clauses = append(r.Clauses, c)
		}
		p.Rules = append(p.Rules, r)
	}
	if p.Action == mesh.Deny && d.one(3) {
		p.Strict = true
		p.Rules = []mesh.Rule{{Clauses: []mesh.Clause{{Matches: []mesh.Match{{NotPrincipals: []mesh.StringMatch{{Kind: mesh.MatchPresence}}}}}}}}
	}
	return p
}

func (d dice) match() (m mesh.Match) {
	word := func(s string) []mesh.StringMatch { return []mesh.StringMatch{{Value: s}} }
	switch d.IntN(9) {
	case 0:
		m.Namespaces = word(pick(d, "a", "b"))
	case 1:
		m.NotNamespaces = word(pick(d, "a", "b"))
	case 2:
		m.Principals = []mesh.StringMatch{{Kind: mesh.MatchSuffix, Value: "/sa/" + pick(d, "x", "y", "z")}}
	case 3:
		m.NotPrincipals = word("cluster.local/ns/a/sa/x")
	case 4:
		m.ServiceAccounts = []mesh.Name{{Namespace: pick(d, "a", "b"), Name: pick(d, "x", "y", "z")}}
	case 5:
		m.SourceIPs = []netip.Prefix{netip.PrefixFrom(v4(d.IntN(workloads)), pick(d, 30, 32))}
	case 6:
		m.NotSourceIPs = []netip.Prefix{netip.PrefixFrom(v6(d.IntN(workloads)), pick(d, 126, 128)).Masked()}
	case 7:
		m.DestinationPorts = []uint16{pick[uint16](d, 8080, 8443)}
	case 8:
		m.NotDestinationPorts = []uint16{8080}
	}
	return m
}

// query asks for any pair.
func (d dice) query() Query {
	q := Query{Port: pick[uint16](d, 80, 80, 80, 443, 8080, 8080, 8443, 9, 15001, 15006, 15008, 61007)}
	src := d.IntN(workloads)
	q.Source = pick(d, fmt.Sprintf("pod%d", src), fmt.Sprintf("pod%d", src), v4(src).String(), v6(src).String())
	if d.one(12) {
		q.Source = "192.0.2.7"
	}
	dst, svc := d.IntN(workloads), d.IntN(services)
	n := serviceName(svc)
	q.Destination = pick(d, v4(dst).String(), v6(dst).String(), n.String(), "service/"+n.String(), n.Name+"."+n.Namespace,
		n.Name+"."+n.Namespace+".svc.cluster.local", "192.0.2.9", "10.1.9.9", "10.200.0.1", "127.0.0.1", "169.254.169.254", "::1")
	if d.one(2) {
		q.Family = pick(d, 4, 6)
	}
	return q
}
