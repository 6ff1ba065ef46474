// SPDX-License-Identifier: Apache-2.0

package authz

import (
	"fmt"
	"math/rand/v2"
	"net/netip"
	"sync"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/warren-mesh/warren/mesh"
)

// random makes policies and connections of a small world, so that they often meet.
type random struct{ *rand.Rand }

func newRandom(seed uint64) random { return random{rand.New(rand.NewPCG(seed, 3))} }

func oneOf[T any](r random, vs ...T) T { return vs[r.IntN(len(vs))] }

func upTo[T any](r random, n int, f func() T) []T {
	var out []T
	for range r.IntN(n + 1) {
		out = append(out, f())
	}
	return out
}

// seldom is one value, rarely more, mostly none.
func seldom[T any](r random, f func() T) []T {
	if r.IntN(5) > 0 {
		return nil
	}
	return append(upTo(r, 2, f), f())
}

func (r random) account() string   { return oneOf(r, "x", "y", "yy") }
func (r random) namespace() string { return oneOf(r, "a", "ab", "b") }
func (r random) domain() string    { return oneOf(r, "td", "td.two") }

func (r random) word(whole string) mesh.StringMatch {
	n := r.IntN(len(whole) + 1)
	switch r.IntN(6) {
	case 0:
		return mesh.StringMatch{Kind: mesh.MatchPrefix, Value: whole[:n]}
	case 1:
		return mesh.StringMatch{Kind: mesh.MatchSuffix, Value: whole[n:]}
	case 2:
		return mesh.StringMatch{Kind: mesh.MatchPresence}
	case 3:
		return mesh.StringMatch{Kind: mesh.MatchExact, Value: oneOf(r, "", "nobody")}
	}
	return mesh.StringMatch{Kind: mesh.MatchExact, Value: whole}
}

func (r random) identity() mesh.Identity {
	if r.IntN(5) == 0 {
		return mesh.Identity{}
	}
	return mesh.Identity{TrustDomain: r.domain(), Namespace: r.namespace(), ServiceAccount: r.account()}
}

func (r random) addr() netip.Addr {
	v4 := netip.AddrFrom4([4]byte{10, byte(r.IntN(2)), 0, byte(r.IntN(4))})
	switch r.IntN(5) {
	case 0:
		return netip.AddrFrom16(v4.As16())
	case 1, 2:
		return netip.AddrFrom16([16]byte{0xfd, 15: byte(r.IntN(4))})
	}
	return v4
}

func (r random) prefix() netip.Prefix {
	if r.IntN(20) == 0 {
		return netip.Prefix{}
	}
	a := r.addr()
	return netip.PrefixFrom(a, r.IntN(a.BitLen()+1))
}

func (r random) port() uint16 { return oneOf[uint16](r, 80, 81, 443) }

func (r random) match() mesh.Match {
	principal := func() mesh.StringMatch {
		return r.word(mesh.Identity{TrustDomain: r.domain(), Namespace: r.namespace(), ServiceAccount: r.account()}.Principal())
	}
	namespace := func() mesh.StringMatch { return r.word(r.namespace()) }
	account := func() mesh.Name { return mesh.Name{Namespace: r.namespace(), Name: r.account()} }
	return mesh.Match{
		Namespaces: seldom(r, namespace), NotNamespaces: seldom(r, namespace),
		Principals: seldom(r, principal), NotPrincipals: seldom(r, principal),
		ServiceAccounts: seldom(r, account), NotServiceAccounts: seldom(r, account),
		SourceIPs: seldom(r, r.prefix), NotSourceIPs: seldom(r, r.prefix),
		DestinationIPs: seldom(r, r.prefix), NotDestinationIPs: seldom(r, r.prefix),
		DestinationPorts: seldom(r, r.port), NotDestinationPorts: seldom(r, r.port),
	}
}

func (r random) policy() *mesh.Policy {
	return &mesh.Policy{
		Name:   mesh.Name{Namespace: oneOf(r, "home", "home", "root", "other"), Name: fmt.Sprint("p", r.IntN(12))},
		Scope:  oneOf(r, mesh.ScopeMesh, mesh.ScopeNamespace, mesh.ScopeNamespace, mesh.ScopeWorkload, mesh.ScopeWorkload),
		Action: oneOf(r, mesh.Allow, mesh.Allow, mesh.Deny, mesh.Deny, mesh.Audit), DryRun: r.IntN(5) == 0, Strict: r.IntN(6) == 0,
		Rules: upTo(r, 3, func() mesh.Rule {
			rule := mesh.Rule{Clauses: upTo(r, 2, func() mesh.Clause { return mesh.Clause{Matches: upTo(r, 3, r.match)} })}
			if len(rule.Clauses) == 0 && r.IntN(4) > 0 { // what matches all hides the rest
				rule.Clauses = []mesh.Clause{{Matches: []mesh.Match{r.match()}}}
			}
			return rule
		}),
	}
}

func (r random) workload(uid string) *mesh.Workload {
	return &mesh.Workload{UID: uid, Namespace: "home", Policies: upTo(r, 4, func() mesh.Name {
		return mesh.Name{Namespace: oneOf(r, "home", "root"), Name: fmt.Sprint("p", r.IntN(13))}
	})}
}

func (r random) connection() Connection {
	return Connection{Identity: r.identity(), Source: r.addr(), Destination: netip.AddrPortFrom(r.addr(), r.port())}
}

// The index gives the answers that looking at every policy gives, to the policy and the rule, whatever the
// policies and however they change.
func TestIndexAgreesWithEvaluate(t *testing.T) {
	seen := map[string]int{}
	for seed := range uint64(1500) {
		r := newRandom(seed)
		var e Evaluator
		snap := mesh.NewSnapshot()
		for range r.IntN(20) {
			snap = snap.With(mesh.PutPolicy{Policy: r.policy()})
		}
		workloads := []*mesh.Workload{r.workload("u"), r.workload("v")}
		for range 12 {
			switch r.IntN(4) {
			case 0:
				snap = snap.With(mesh.PutPolicy{Policy: r.policy()})
			case 1:
				snap = snap.With(mesh.DeletePolicy{Name: r.policy().Name})
			case 2:
				workloads[0] = r.workload("u")
			}
			for _, dst := range workloads {
				for range 4 {
					c := r.connection()
					want, got := Evaluate(snap, dst, c), e.Evaluate(snap, dst, c)
					if d := cmp.Diff(want, got); d != "" {
						t.Fatalf("seed %d, %+v (-want +got):\n%s", seed, c, d)
					}
					seen[fmt.Sprint(want.Reason, want.Allowed)]++
					seen["notes"] += len(want.DryRun) + len(want.Audit)
				}
			}
		}
	}
	t.Log(seen)
	for _, want := range []string{"POLICY_DENY false", "POLICY_NO_ALLOW false", "STRICT_MTLS false", "POLICY_UNKNOWN false", "NONE true", "notes"} {
		if seen[want] < 1000 {
			t.Errorf("%s came up %d times: the test says little of it (%v)", want, seen[want], seen)
		}
	}
}

func TestEvaluatorShares(t *testing.T) {
	var e Evaluator
	snap := mesh.NewSnapshot().With(mesh.PutPolicy{Policy: &mesh.Policy{Name: name("home", "p"), Scope: mesh.ScopeNamespace}},
		mesh.PutPolicy{Policy: &mesh.Policy{Name: name("home", "w"), Scope: mesh.ScopeWorkload}})
	w := func(uid string, refs ...mesh.Name) *mesh.Workload {
		return &mesh.Workload{UID: uid, Namespace: "home", Policies: refs}
	}
	get := func(s *mesh.Snapshot, dst *mesh.Workload) *index {
		e.Evaluate(s, dst, conn)
		return e.byUID[dst.UID].index
	}
	first := get(snap, w("u", name("home", "w")))
	if get(snap, w("v", name("home", "w"))) != first {
		t.Error("two with the same policies: two indexes")
	}
	if get(snap, w("x")) == first {
		t.Error("another's references are taken over")
	}
	elsewhere := snap.With(mesh.PutPolicy{Policy: &mesh.Policy{Name: name("far", "p"), Scope: mesh.ScopeNamespace}})
	if get(elsewhere, w("u", name("home", "w"))) != first {
		t.Error("another namespace's policy: made again")
	}
	changed := elsewhere.With(mesh.PutPolicy{Policy: &mesh.Policy{Name: name("home", "w"), Scope: mesh.ScopeWorkload}})
	if get(changed, w("u", name("home", "w"))) == first {
		t.Error("its own policy changed, and the old index stays")
	}
	// Destinations that are gone are forgotten.
	for i := range 3 * sweepFrom {
		get(changed, w(fmt.Sprint("gone", i)))
	}
	if len(e.byUID) > sweepFrom {
		t.Errorf("%d destinations are kept", len(e.byUID))
	}
}

// However many policies there are, a connection is compared with the few that name what it shows.
func TestFewCandidates(t *testing.T) {
	count := func(x *index, c Connection) (n int) {
		p := newPeer(c)
		for _, t := range []*table{&x.deny, &x.allow, &x.notes} {
			t.candidates(&p, func(list []ref) { n += len(list) })
		}
		return n
	}
	for _, k := range kinds {
		snap, dst := many(10000, k.rule)
		x := compile(snap, dst)
		for i := 0; i < 10000; i += 997 {
			c := Connection{Identity: caller(i), Source: from(i), Destination: netip.MustParseAddrPort("10.2.0.9:8080")}
			if n := count(x, c); n != 1 {
				t.Errorf("%s, connection %d: %d rules to compare, want the one that matches", k.name, i, n)
			}
		}
	}
	// From and to in clauses of their own, as AuthorizationPolicy has them; policies that say the same; what
	// matches everything, and hides what follows.
	everywhere := mesh.Clause{Matches: []mesh.Match{{DestinationPorts: []uint16{8080}}}}
	for _, tt := range []struct {
		name string
		rule func(i int) mesh.Rule
		want int
	}{
		{"clauses", func(i int) mesh.Rule {
			return mesh.Rule{Clauses: []mesh.Clause{everywhere, {Matches: []mesh.Match{{Namespaces: exact(caller(i).Namespace)}}}}}
		}, 1},
		{"the same", func(int) mesh.Rule { return one(mesh.Match{NotNamespaces: exact("z")})[0] }, 2},
		{"everything", func(i int) mesh.Rule {
			if i < 2 {
				return mesh.Rule{}
			}
			return one(mesh.Match{NotSourceIPs: []netip.Prefix{netip.PrefixFrom(from(i), 32)}})[0]
		}, 2},
	} {
		snap, dst := many(10000, func(int) mesh.Match { return mesh.Match{} })
		var changes []mesh.Change
		for i, n := range dst.Policies {
			p := *snap.Policy(n)
			p.Rules = []mesh.Rule{tt.rule(i)}
			changes = append(changes, mesh.PutPolicy{Policy: &p})
		}
		c := Connection{Identity: caller(7), Source: from(7), Destination: netip.MustParseAddrPort("10.2.0.9:8080")}
		if n := count(compile(snap.With(changes...), dst), c); n != tt.want {
			t.Errorf("%s: %d rules to compare, want %d", tt.name, n, tt.want)
		}
	}
}

func TestEvaluatorConcurrently(t *testing.T) {
	var e Evaluator
	r := newRandom(1)
	snaps := []*mesh.Snapshot{mesh.NewSnapshot()}
	for range 20 {
		snaps = append(snaps, snaps[len(snaps)-1].With(mesh.PutPolicy{Policy: r.policy()}))
	}
	dst := []*mesh.Workload{r.workload("u"), r.workload("v")}
	var all sync.WaitGroup
	for g := range uint64(4) {
		all.Go(func() {
			r := newRandom(g)
			for range 300 {
				snap, dst, c := oneOf(r, snaps...), oneOf(r, dst...), r.connection()
				if d := cmp.Diff(Evaluate(snap, dst, c), e.Evaluate(snap, dst, c)); d != "" {
					t.Error(d)
				}
			}
		})
	}
	all.Wait()
}

func TestAudit(t *testing.T) {
	put := func(n string, a mesh.Action, dry bool, rules ...mesh.Rule) mesh.Change {
		return mesh.PutPolicy{Policy: &mesh.Policy{Name: name("b", n), Scope: mesh.ScopeNamespace, Action: a, DryRun: dry, Rules: rules}}
	}
	snap := mesh.NewSnapshot().With(put("watch", mesh.Audit, false, one(mesh.Match{Namespaces: exact("z")})[0], mesh.Rule{}),
		put("quiet", mesh.Audit, false, one(mesh.Match{Namespaces: exact("z")})...), put("try", mesh.Audit, true, mesh.Rule{}))
	for _, tt := range []struct {
		name    string
		more    mesh.Change
		allowed bool
	}{
		{"alone it allows", put("other", mesh.Audit, false), true},
		{"it is no ALLOW", put("nobody", mesh.Allow, false), false},
		{"it does not stop a DENY", put("deny", mesh.Deny, false, mesh.Rule{}), false},
	} {
		d := Evaluate(snap.With(tt.more), &mesh.Workload{Namespace: "b"}, conn)
		want := []Note{{Policy: name("b", "watch"), Action: mesh.Audit, Rule: 1}}
		if d.Allowed != tt.allowed || cmp.Diff(want, d.Audit) != "" || len(d.DryRun) != 1 || d.DryRun[0].Policy != name("b", "try") {
			t.Errorf("%s: got %+v", tt.name, d)
		}
	}
}
