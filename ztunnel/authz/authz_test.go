// SPDX-License-Identifier: Apache-2.0

package authz

import (
	"net/netip"
	"testing"

	"github.com/warren-mesh/warren/mesh"
	"github.com/warren-mesh/warren/mesh/reason"
)

var (
	alice = mesh.Identity{TrustDomain: "cluster.local", Namespace: "a", ServiceAccount: "alice"}
	conn  = Connection{Identity: alice, Source: netip.MustParseAddr("10.1.0.5"), Destination: netip.MustParseAddrPort("10.2.0.9:8080")}
	plain = Connection{Source: conn.Source, Destination: conn.Destination}
)

func exact(s string) []mesh.StringMatch { return []mesh.StringMatch{{Value: s}} }
func prefix(s string) []netip.Prefix    { return []netip.Prefix{netip.MustParsePrefix(s)} }
func name(ns, n string) mesh.Name       { return mesh.Name{Namespace: ns, Name: n} }
func one(m mesh.Match) []mesh.Rule {
	return []mesh.Rule{{Clauses: []mesh.Clause{{Matches: []mesh.Match{m}}}}}
}
func presence() []mesh.StringMatch { return []mesh.StringMatch{{Kind: mesh.MatchPresence}} }
func strict(p mesh.Name) *mesh.Policy {
	return &mesh.Policy{Name: p, Scope: mesh.ScopeWorkload, Action: mesh.Deny, Strict: true, Rules: one(mesh.Match{NotPrincipals: presence()})}
}

func TestMatch(t *testing.T) {
	tests := []struct {
		name  string
		rules []mesh.Rule
		conn  Connection
		want  bool
	}{
		{"no rules never match", nil, conn, false},
		{"a rule without clauses matches", []mesh.Rule{{}}, conn, true},
		{"an empty clause matches", []mesh.Rule{{Clauses: []mesh.Clause{{}}}}, conn, true},
		{"a match with nothing set never matches", one(mesh.Match{}), conn, false},
		{"principal", one(mesh.Match{Principals: exact("cluster.local/ns/a/sa/alice")}), conn, true},
		{"principal of another trust domain", one(mesh.Match{Principals: exact("other/ns/a/sa/alice")}), conn, false},
		{"principal by prefix", one(mesh.Match{Principals: []mesh.StringMatch{{Kind: mesh.MatchPrefix, Value: "cluster.local/ns/a/"}}}), conn, true},
		{"principal by suffix", one(mesh.Match{Principals: []mesh.StringMatch{{Kind: mesh.MatchSuffix, Value: "/sa/alice"}}}), conn, true},
		{"plaintext has no principal", one(mesh.Match{Principals: presence()}), plain, false},
		{"not principals: presence matches plaintext", one(mesh.Match{NotPrincipals: presence()}), plain, true},
		{"not principals: presence spares an identity", one(mesh.Match{NotPrincipals: presence()}), conn, false},
		{"namespace", one(mesh.Match{Namespaces: exact("a")}), conn, true},
		{"plaintext has no namespace", one(mesh.Match{Namespaces: exact("a")}), plain, false},
		{"not namespace", one(mesh.Match{NotNamespaces: exact("a")}), conn, false},
		{"service account ignores the trust domain", one(mesh.Match{ServiceAccounts: []mesh.Name{name("a", "alice")}}),
			Connection{Identity: mesh.Identity{TrustDomain: "x", Namespace: "a", ServiceAccount: "alice"}}, true},
		{"other service account", one(mesh.Match{ServiceAccounts: []mesh.Name{name("a", "bob")}}), conn, false},
		{"not service account", one(mesh.Match{NotServiceAccounts: []mesh.Name{name("a", "alice")}}), conn, false},
		{"source address", one(mesh.Match{SourceIPs: prefix("10.1.0.0/16")}), conn, true},
		{"not source address", one(mesh.Match{NotSourceIPs: prefix("10.1.0.0/16")}), conn, false},
		{"destination address", one(mesh.Match{DestinationIPs: prefix("10.2.0.9/32")}), conn, true},
		{"not destination address", one(mesh.Match{NotDestinationIPs: prefix("10.2.0.9/32")}), conn, false},
		{"destination port", one(mesh.Match{DestinationPorts: []uint16{80, 8080}}), conn, true},
		{"not destination port", one(mesh.Match{NotDestinationPorts: []uint16{8080}}), conn, false},
		{"all attributes must hold", one(mesh.Match{Namespaces: exact("a"), DestinationPorts: []uint16{80}}), conn, false},
		{"positive and negative together", one(mesh.Match{SourceIPs: prefix("10.0.0.0/8"), NotSourceIPs: prefix("10.1.0.0/24")}), conn, false},
		{"matches are ORed", []mesh.Rule{{Clauses: []mesh.Clause{{Matches: []mesh.Match{{Namespaces: exact("z")}, {Namespaces: exact("a")}}}}}}, conn, true},
		{"clauses are ANDed", []mesh.Rule{{Clauses: []mesh.Clause{{Matches: []mesh.Match{{Namespaces: exact("a")}}}, {Matches: []mesh.Match{{Namespaces: exact("z")}}}}}}, conn, false},
		{"rules are ORed", append(one(mesh.Match{Namespaces: exact("z")}), mesh.Rule{}), conn, true},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			p := newPeer(tt.conn)
			if got := match(&mesh.Policy{Rules: tt.rules}, &p) >= 0; got != tt.want {
				t.Errorf("got %v, want %v", got, tt.want)
			}
		})
	}
}

func TestEvaluate(t *testing.T) {
	all := []mesh.Rule{{}}
	policy := func(ns, n string, s mesh.Scope, a mesh.Action, rules []mesh.Rule) *mesh.Policy {
		return &mesh.Policy{Name: name(ns, n), Scope: s, Action: a, Rules: rules}
	}
	dry := policy("b", "dry", mesh.ScopeNamespace, mesh.Deny, all)
	dry.DryRun = true
	dryAllow := policy("b", "dry", mesh.ScopeNamespace, mesh.Allow, nil)
	dryAllow.DryRun = true
	tests := []struct {
		name     string
		policies []*mesh.Policy
		refs     []mesh.Name
		conn     Connection
		allowed  bool
		reason   reason.Reason
		policy   mesh.Name
	}{
		{"no policy allows", nil, nil, conn, true, reason.None, mesh.Name{}},
		{"deny in the mesh", []*mesh.Policy{policy("warren-system", "d", mesh.ScopeMesh, mesh.Deny, all)}, nil, conn, false, reason.PolicyDeny, name("warren-system", "d")},
		{"deny in the namespace", []*mesh.Policy{policy("b", "d", mesh.ScopeNamespace, mesh.Deny, all)}, nil, conn, false, reason.PolicyDeny, name("b", "d")},
		{"another namespace's deny", []*mesh.Policy{policy("a", "d", mesh.ScopeNamespace, mesh.Deny, all)}, nil, conn, true, reason.None, mesh.Name{}},
		{"workload deny, referenced", []*mesh.Policy{policy("b", "d", mesh.ScopeWorkload, mesh.Deny, all)}, []mesh.Name{name("b", "d")}, conn, false, reason.PolicyDeny, name("b", "d")},
		{"workload deny, not referenced", []*mesh.Policy{policy("b", "d", mesh.ScopeWorkload, mesh.Deny, all)}, nil, conn, true, reason.None, mesh.Name{}},
		{"another namespace's deny, referenced", []*mesh.Policy{policy("a", "d", mesh.ScopeNamespace, mesh.Deny, all)}, []mesh.Name{name("a", "d")}, conn, false, reason.PolicyDeny, name("a", "d")},
		{"its namespace's deny, referenced as well", []*mesh.Policy{policy("b", "d", mesh.ScopeNamespace, mesh.Deny, all)}, []mesh.Name{name("b", "d")}, conn, false, reason.PolicyDeny, name("b", "d")},
		{"deny wins over allow", []*mesh.Policy{policy("b", "a", mesh.ScopeNamespace, mesh.Allow, all), policy("b", "d", mesh.ScopeNamespace, mesh.Deny, all)}, nil, conn, false, reason.PolicyDeny, name("b", "d")},
		{"deny that does not match", []*mesh.Policy{policy("b", "d", mesh.ScopeNamespace, mesh.Deny, one(mesh.Match{Namespaces: exact("z")}))}, nil, conn, true, reason.None, mesh.Name{}},
		{"allow matches", []*mesh.Policy{policy("b", "a", mesh.ScopeNamespace, mesh.Allow, all)}, nil, conn, true, reason.None, name("b", "a")},
		{"allow without rules allows nothing", []*mesh.Policy{policy("b", "a", mesh.ScopeNamespace, mesh.Allow, nil)}, nil, conn, false, reason.PolicyNoAllow, name("b", "a")},
		{"of two allows the narrower is named", []*mesh.Policy{policy("b", "a", mesh.ScopeNamespace, mesh.Allow, nil), policy("b", "c", mesh.ScopeWorkload, mesh.Allow, nil)}, []mesh.Name{name("b", "c")}, conn, false, reason.PolicyNoAllow, name("b", "c")},
		{"one allow of two matches", []*mesh.Policy{policy("b", "a", mesh.ScopeNamespace, mesh.Allow, nil), policy("b", "c", mesh.ScopeNamespace, mesh.Allow, all)}, nil, conn, true, reason.None, name("b", "c")},
		{"strict refuses plaintext", []*mesh.Policy{strict(name("warren-system", "s"))}, []mesh.Name{name("warren-system", "s")}, plain, false, reason.StrictMTLS, name("warren-system", "s")},
		{"strict admits an identity", []*mesh.Policy{strict(name("warren-system", "s"))}, []mesh.Name{name("warren-system", "s")}, conn, true, reason.None, mesh.Name{}},
		{"strict is named before another deny", []*mesh.Policy{policy("b", "d", mesh.ScopeNamespace, mesh.Deny, all), strict(name("warren-system", "s"))}, []mesh.Name{name("warren-system", "s")}, plain, false, reason.StrictMTLS, name("warren-system", "s")},
		{"unknown policy waits", nil, []mesh.Name{name("b", "x")}, conn, false, reason.PolicyUnknown, mesh.Name{}},
		{"unknown policy, but an allow matches", []*mesh.Policy{policy("b", "a", mesh.ScopeNamespace, mesh.Allow, all)}, []mesh.Name{name("b", "x")}, conn, false, reason.PolicyUnknown, mesh.Name{}},
		{"unknown policy, but a deny matches: at once", []*mesh.Policy{policy("b", "d", mesh.ScopeNamespace, mesh.Deny, all)}, []mesh.Name{name("b", "x")}, conn, false, reason.PolicyDeny, name("b", "d")},
		{"dry run refuses nothing", []*mesh.Policy{dry}, nil, conn, true, reason.None, mesh.Name{}},
		{"a dry-run allow demands nothing", []*mesh.Policy{dryAllow}, nil, conn, true, reason.None, mesh.Name{}},
		{"v4-mapped source and destination", []*mesh.Policy{policy("b", "d", mesh.ScopeNamespace, mesh.Deny, one(mesh.Match{SourceIPs: prefix("10.1.0.5/32"), DestinationIPs: prefix("10.2.0.9/32")}))}, nil,
			Connection{Identity: alice, Source: netip.MustParseAddr("::ffff:10.1.0.5"), Destination: netip.MustParseAddrPort("[::ffff:10.2.0.9]:8080")}, false, reason.PolicyDeny, name("b", "d")},
		{"a link-local source with its zone", []*mesh.Policy{policy("b", "d", mesh.ScopeNamespace, mesh.Deny, one(mesh.Match{SourceIPs: prefix("fe80::/10")}))}, nil,
			Connection{Source: netip.MustParseAddr("fe80::1%eth0"), Destination: conn.Destination}, false, reason.PolicyDeny, name("b", "d")},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			snap := mesh.NewSnapshot()
			for _, p := range tt.policies {
				snap = snap.With(mesh.PutPolicy{Policy: p})
			}
			d := Evaluate(snap, &mesh.Workload{Namespace: "b", Policies: tt.refs}, tt.conn)
			if d.Allowed != tt.allowed || d.Reason != tt.reason || d.Policy != tt.policy {
				t.Errorf("got allowed %v, %v, policy %v; want %v, %v, %v", d.Allowed, d.Reason, d.Policy, tt.allowed, tt.reason, tt.policy)
			}
			if (tt.reason == reason.PolicyUnknown) == d.Need.IsZero() {
				t.Errorf("need: got %v", d.Need)
			}
		})
	}
}

// TestWhoDemandsMutualTLS: a refusal names the kind of object to look at.
func TestWhoDemandsMutualTLS(t *testing.T) {
	for object, want := range map[string]string{
		"istio_converted_static_strict": "PeerAuthentication", "converted_peer_authentication_x": "PeerAuthentication", mesh.MeshConfigStrict: "MeshConfig",
	} {
		n := name("warren-system", object)
		d := Evaluate(mesh.NewSnapshot().With(mesh.PutPolicy{Policy: strict(n)}), &mesh.Workload{Namespace: "b", Policies: []mesh.Name{n}}, plain)
		if text := want + " STRICT: the peer has no mesh identity"; d.StrictBy != want || d.Text() != text {
			t.Errorf("%s: by %q: %q, want by %q: %q", object, d.StrictBy, d.Text(), want, text)
		}
	}
	deny := &mesh.Policy{Name: name("b", "d"), Scope: mesh.ScopeNamespace, Action: mesh.Deny, Rules: []mesh.Rule{{}}}
	if d := Evaluate(mesh.NewSnapshot().With(mesh.PutPolicy{Policy: deny}), &mesh.Workload{Namespace: "b"}, plain); d.StrictBy != "" || d.Text() != reason.PolicyDeny.Text() {
		t.Errorf("another refusal: by %q: %q", d.StrictBy, d.Text())
	}
}

func TestDryRunNotes(t *testing.T) {
	snap := mesh.NewSnapshot().With(mesh.PutPolicy{Policy: &mesh.Policy{Name: name("b", "dry"), Scope: mesh.ScopeNamespace, Action: mesh.Deny, DryRun: true, Rules: []mesh.Rule{{}}}})
	d := Evaluate(snap, &mesh.Workload{Namespace: "b"}, conn)
	if len(d.DryRun) != 1 || d.DryRun[0] != (Note{Policy: name("b", "dry"), Action: mesh.Deny}) {
		t.Errorf("got %+v", d.DryRun)
	}
}
