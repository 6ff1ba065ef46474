// SPDX-License-Identifier: Apache-2.0

package kube

import (
	"net/netip"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	istiosecurity "istio.io/client-go/pkg/apis/security/v1"
	corev1 "k8s.io/api/core/v1"
	"sigs.k8s.io/yaml"

	"github.com/warren-mesh/warren/mesh"
)

// authorization is a policy shop/x with a spec in YAML.
func authorization(t *testing.T, spec string, edits ...func(*istiosecurity.AuthorizationPolicy)) *istiosecurity.AuthorizationPolicy {
	t.Helper()
	o := &istiosecurity.AuthorizationPolicy{}
	if err := yaml.UnmarshalStrict([]byte("metadata: {name: x, namespace: shop}\nspec: "+spec), o); err != nil {
		t.Fatalf("%s: %v", spec, err)
	}
	for _, e := range edits {
		e(o)
	}
	return o
}

func at(namespace, name string) func(*istiosecurity.AuthorizationPolicy) {
	return func(o *istiosecurity.AuthorizationPolicy) { o.Namespace, o.Name = namespace, name }
}

func words(kind mesh.MatchKind, values ...string) (out []mesh.StringMatch) {
	for _, v := range values {
		out = append(out, mesh.StringMatch{Kind: kind, Value: v})
	}
	return out
}

func blocks(values ...string) (out []netip.Prefix) {
	for _, v := range values {
		out = append(out, netip.MustParsePrefix(v))
	}
	return out
}

func clause(ms ...mesh.Match) mesh.Clause { return mesh.Clause{Matches: ms} }
func rule(cs ...mesh.Clause) mesh.Rule    { return mesh.Rule{Clauses: cs} }
func web80(m mesh.Match) mesh.Match       { m.DestinationPorts = []uint16{80}; return m }

func TestAuthorizationRules(t *testing.T) {
	ports := clause(web80(mesh.Match{}))
	tests := []struct {
		name, spec string
		want       []mesh.Rule
		partial    []string
	}{
		{"nothing at all", `{}`, nil, nil},
		{"a rule for all", `{rules: [{}]}`, []mesh.Rule{{}}, nil},
		{"deny, no rules", `{action: DENY}`, nil, nil},
		{"wildcards", `{rules: [{from: [{source: {principals: ["a/ns/b/sa/c", "a/*", "*/c", "*", "spiffe://td/ns/n/sa/s", "spiffe://td/*"]}}]}]}`,
			[]mesh.Rule{rule(clause(mesh.Match{Principals: slices.Concat(words(mesh.MatchExact, "a/ns/b/sa/c"), words(mesh.MatchPrefix, "a/"),
				words(mesh.MatchSuffix, "/c"), words(mesh.MatchPresence, ""), words(mesh.MatchExact, "td/ns/n/sa/s"), words(mesh.MatchPrefix, "td/"))}))}, nil},
		{"source, negatives", `{rules: [{from: [{source: {notPrincipals: ["*"], notNamespaces: [n*], namespaces: [m], notIpBlocks: [10.0.0.0/8], ipBlocks: ["10.1.2.3/16", "fd00::1", "::ffff:192.0.2.1", "::ffff:192.0.2.0/120"]}}]}]}`,
			[]mesh.Rule{rule(clause(mesh.Match{NotPrincipals: words(mesh.MatchPresence, ""), NotNamespaces: words(mesh.MatchPrefix, "n"), Namespaces: words(mesh.MatchExact, "m"),
				NotSourceIPs: blocks("10.0.0.0/8"), SourceIPs: blocks("10.1.0.0/16", "fd00::1/128", "192.0.2.1/32", "192.0.2.0/24")}))}, nil},
		{"accounts", `{rules: [{from: [{source: {serviceAccounts: [mine, other/theirs], notServiceAccounts: [a/b]}}]}]}`,
			[]mesh.Rule{rule(clause(mesh.Match{ServiceAccounts: []mesh.Name{{Namespace: "shop", Name: "mine"}, {Namespace: "other", Name: "theirs"}},
				NotServiceAccounts: []mesh.Name{{Namespace: "a", Name: "b"}}}))}, nil},
		{"from and to are ANDed, their entries ORed", `{rules: [{from: [{source: {namespaces: [a]}}, {source: {namespaces: [b]}}], to: [{operation: {ports: ["80"]}}, {operation: {notPorts: ["1", "65535"]}}]}]}`,
			[]mesh.Rule{rule(clause(mesh.Match{Namespaces: words(mesh.MatchExact, "a")}, mesh.Match{Namespaces: words(mesh.MatchExact, "b")}),
				clause(web80(mesh.Match{}), mesh.Match{NotDestinationPorts: []uint16{1, 65535}}))}, nil},
		{"when", `{rules: [{when: [{key: source.ip, values: [10.0.0.1], notValues: [10.0.0.0/31]}, {key: source.namespace, values: [a]}, {key: source.principal, notValues: ["*"]},
			{key: source.serviceAccount, values: [sa]}, {key: destination.ip, values: [10.0.0.5]}, {key: destination.port, values: ["80"], notValues: ["81"]}]}]}`,
			[]mesh.Rule{rule(clause(mesh.Match{SourceIPs: blocks("10.0.0.1/32"), NotSourceIPs: blocks("10.0.0.0/31")}), clause(mesh.Match{Namespaces: words(mesh.MatchExact, "a")}),
				clause(mesh.Match{NotPrincipals: words(mesh.MatchPresence, "")}), clause(mesh.Match{ServiceAccounts: []mesh.Name{{Namespace: "shop", Name: "sa"}}}),
				clause(mesh.Match{DestinationIPs: blocks("10.0.0.5/32")}), clause(mesh.Match{DestinationPorts: []uint16{80}, NotDestinationPorts: []uint16{81}}))}, nil},

		{"HTTP in ALLOW: the rule goes", `{rules: [{to: [{operation: {ports: ["80"], methods: [GET]}}]}, {to: [{operation: {ports: ["80"]}}]}]}`,
			[]mesh.Rule{rule(ports)}, []string{"spec.rules[0].to[0].operation.methods"}},
		{"HTTP in every ALLOW rule: allows nothing", `{rules: [{from: [{source: {requestPrincipals: ["*"]}}]}]}`, nil, []string{"spec.rules[0].from[0].source.requestPrincipals"}},
		{"HTTP in one of two sources of ALLOW", `{rules: [{from: [{source: {namespaces: [a]}}, {source: {remoteIpBlocks: [10.0.0.0/8]}}]}]}`, nil, []string{"spec.rules[0].from[1].source.remoteIpBlocks"}},
		{"HTTP condition in ALLOW", `{rules: [{when: [{key: "request.headers[x]", values: [v]}]}]}`, nil, []string{"spec.rules[0].when[0].key"}},
		{"SNI in ALLOW", `{rules: [{when: [{key: connection.sni, values: [v]}]}]}`, nil, []string{"spec.rules[0].when[0].key"}},
		{"HTTP in DENY: denies more", `{action: DENY, rules: [{from: [{source: {namespaces: [a], requestPrincipals: ["*"]}}], to: [{operation: {ports: ["80"], notPaths: [/healthz]}}]}]}`,
			[]mesh.Rule{rule(clause(mesh.Match{Namespaces: words(mesh.MatchExact, "a")}), ports)}, []string{"spec.rules[0].from[0].source.requestPrincipals", "spec.rules[0].to[0].operation.notPaths"}},
		{"only HTTP in DENY: denies all", `{action: DENY, rules: [{to: [{operation: {methods: [DELETE]}}]}]}`, []mesh.Rule{{}}, []string{"spec.rules[0].to[0].operation.methods"}},
		{"one of two operations of DENY is only HTTP", `{action: DENY, rules: [{from: [{source: {namespaces: [a]}}], to: [{operation: {ports: ["80"]}}, {operation: {hosts: [x]}}]}]}`,
			[]mesh.Rule{rule(clause(mesh.Match{Namespaces: words(mesh.MatchExact, "a")}))}, []string{"spec.rules[0].to[1].operation.hosts"}},
		{"HTTP conditions in DENY", `{action: DENY, rules: [{when: [{key: "request.auth.claims[a][b]", notValues: [x]}, {key: destination.port, values: ["80"]}, {key: experimental.envoy.filters.x, values: [v]}]}]}`,
			[]mesh.Rule{rule(ports)}, []string{"spec.rules[0].when[0].key", "spec.rules[0].when[2].key"}},
		{"HTTP in AUDIT: reports more", `{action: AUDIT, rules: [{to: [{operation: {notHosts: [x]}}]}]}`, []mesh.Rule{{}}, []string{"spec.rules[0].to[0].operation.notHosts"}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			ap, errs, partial := authzPolicyFrom(authorization(t, tt.spec), mesh.DefaultRootNamespace)
			if len(errs) > 0 {
				t.Fatal(errs)
			}
			if d := cmp.Diff(tt.want, ap.policy.Rules, cmp.Comparer(func(a, b netip.Prefix) bool { return a == b })); d != "" {
				t.Errorf("rules (-want +got):\n%s", d)
			}
			var fields []string
			for _, e := range partial {
				fields = append(fields, e.Field)
			}
			if !slices.Equal(fields, tt.partial) {
				t.Errorf("not applied: got %v, want %v", fields, tt.partial)
			}
		})
	}
}

func TestAuthorizationRefused(t *testing.T) {
	src := func(s string) string { return `{rules: [{from: [{source: ` + s + `}]}]}` }
	tests := []struct{ field, spec string }{
		{"spec.rules[0].from[0].source", src(`{}`)},
		{"spec.rules[0].from[0].source", `{rules: [{from: [{}]}]}`},
		{"spec.rules[0].to[0].operation", `{rules: [{to: [{operation: {ports: []}}]}]}`},
		{"spec.rules[0].from[0].source.ipBlocks[1]", src(`{ipBlocks: [10.0.0.1, 10.0.0.0/33]}`)},
		{"spec.rules[0].from[0].source.notIpBlocks[0]", src(`{notIpBlocks: ["fe80::1%eth0"]}`)},
		{"spec.rules[0].from[0].source.remoteIpBlocks[0]", src(`{remoteIpBlocks: [x]}`)},
		{"spec.rules[0].from[0].source.principals[0]", src(`{principals: [""]}`)},
		{"spec.rules[0].from[0].source.namespaces[0]", src(`{namespaces: ["a*b"]}`)},
		{"spec.rules[0].from[0].source.namespaces[0]", src(`{namespaces: ["**"]}`)},
		{"spec.rules[0].from[0].source.serviceAccounts[0]", src(`{serviceAccounts: ["a/*"]}`)},
		{"spec.rules[0].from[0].source.serviceAccounts[0]", src(`{serviceAccounts: ["a/b/c"]}`)},
		{"spec.rules[0].from[0].source.serviceAccounts", src(`{serviceAccounts: ["a/b"], notNamespaces: [c]}`)},
		{"spec.rules[0].to[0].operation.ports[0]", `{rules: [{to: [{operation: {ports: ["0"]}}]}]}`},
		{"spec.rules[0].to[0].operation.notPorts[0]", `{rules: [{to: [{operation: {notPorts: ["65536"]}}]}]}`},
		{"spec.rules[0].to[0].operation.ports[0]", `{rules: [{to: [{operation: {ports: ["http"]}}]}]}`},
		{"spec.rules[0].when[0].key", `{rules: [{when: [{key: source.labels, values: [x]}]}]}`},
		{"spec.rules[0].when[0].key", `{rules: [{when: [{key: "request.headers[]", values: [x]}]}]}`},
		{"spec.rules[0].when[0].key", `{rules: [{when: [{values: [x]}]}]}`},
		{"spec.rules[0].when[0].values", `{rules: [{when: [{key: source.ip}]}]}`},
		{"spec.rules[0].when[0].notValues[0]", `{rules: [{when: [{key: destination.port, notValues: [x]}]}]}`},
		{"spec.selector", `{selector: {matchLabels: {a: b}}, targetRefs: [{kind: Gateway, name: w}]}`},
		{"spec.selector.matchLabels[app]", `{selector: {matchLabels: {app: "w*"}}}`},
		{"spec.provider", `{provider: {name: x}}`},
	}
	w := newWorld(t, enrolledShop, webPod())
	w.put(authorization(t, `{rules: [{}]}`))
	good := w.store.Snapshot().Policy(mesh.Name{Namespace: "shop", Name: "x"})
	for _, tt := range tests {
		w.refuse(authorization(t, tt.spec), tt.field)
	}
	w.refuse(authorization(t, `{}`, func(o *istiosecurity.AuthorizationPolicy) { o.Annotations = map[string]string{KeyDryRun: "maybe"} }), "metadata.annotations[istio.io/dry-run]")
	w.refuse(authorization(t, `{}`, at("shop", StrictPolicy)), "metadata.name")
	w.refuse(authorization(t, `{}`, func(o *istiosecurity.AuthorizationPolicy) { o.Spec.Action = 17 }), "spec.action")
	w.refuse(authorization(t, `{rules: [{}]}`, func(o *istiosecurity.AuthorizationPolicy) { o.Spec.Rules[0] = nil }), "spec.rules[0]")
	if w.store.Snapshot().Policy(good.Name) != good {
		t.Error("the last good one did not stay")
	}
}

func TestAuthorizationScopes(t *testing.T) {
	name := func(ns, n string) mesh.Name { return mesh.Name{Namespace: ns, Name: n} }
	w := newWorld(t, enrolledShop, webPod())
	policy := func(ns, n string) *mesh.Policy { return w.store.Snapshot().Policy(name(ns, n)) }
	for _, tt := range []struct {
		ns, spec string
		scope    mesh.Scope
	}{
		{"shop", `{}`, mesh.ScopeNamespace}, {"shop", `{selector: {}}`, mesh.ScopeNamespace}, {mesh.DefaultRootNamespace, `{}`, mesh.ScopeMesh},
		{"shop", `{selector: {matchLabels: {app: db}}}`, mesh.ScopeWorkload},
		{mesh.DefaultRootNamespace, `{selector: {matchLabels: {app: db}}}`, mesh.ScopeWorkload},
	} {
		o := authorization(t, tt.spec, at(tt.ns, "scope"))
		w.put(o)
		if p := policy(tt.ns, "scope"); p == nil || p.Scope != tt.scope {
			t.Errorf("%s in %s: got %+v", tt.spec, tt.ns, p)
		}
		w.delete(o)
		if policy(tt.ns, "scope") != nil {
			t.Errorf("%s in %s: stays", tt.spec, tt.ns)
		}
	}
	dry := authorization(t, `{action: DENY}`, func(o *istiosecurity.AuthorizationPolicy) { o.Annotations = map[string]string{KeyDryRun: "true"} })
	w.put(dry)
	if p := policy("shop", "x"); !p.DryRun || p.Action != mesh.Deny {
		t.Errorf("dry run: got %+v", p)
	}
	w.put(authorization(t, `{action: AUDIT}`))
	if p := policy("shop", "x"); p.DryRun || p.Action != mesh.Audit {
		t.Errorf("audit: got %+v", p)
	}
}

func TestAuthorizationSelects(t *testing.T) {
	w := newWorld(t, enrolledShop, webPod(), namespace("other", KeyMesh, "enabled"))
	sel := func(labels string) string { return `{selector: {matchLabels: {` + labels + `}}}` }
	want := func(names ...string) {
		t.Helper()
		var got []string
		for _, n := range w.web().Policies {
			if w.store.Snapshot().Policy(n) == nil {
				t.Errorf("%s is referenced and unknown", n)
			}
			got = append(got, n.String())
		}
		if !slices.Equal(got, names) {
			t.Errorf("policies: got %v, want %v", got, names)
		}
	}
	w.put(authorization(t, sel("app: web"), at("shop", "b")), authorization(t, sel("app: web"), at("shop", "a")),
		authorization(t, sel("app: db"), at("shop", "c")), authorization(t, sel("app: web"), at("other", "d")),
		authorization(t, sel("app: web"), at(mesh.DefaultRootNamespace, "e")), authorization(t, sel("app: web, tier: x"), at("shop", "f")))
	want("warren-system/e", "shop/a", "shop/b")
	// The pod's labels change.
	w.put(webPod(func(p *corev1.Pod) { p.Labels = map[string]string{"app": "db", "tier": "x"} }))
	want("shop/c")
	w.put(webPod(func(p *corev1.Pod) { p.Labels["tier"] = "x" }))
	want("warren-system/e", "shop/a", "shop/b", "shop/f")
	// The policies change.
	w.put(authorization(t, sel("app: db"), at("shop", "a")), authorization(t, `{}`, at("shop", "b")))
	want("warren-system/e", "shop/f")
	w.delete(authorization(t, `{}`, at(mesh.DefaultRootNamespace, "e")))
	want("shop/f")
	// A refused change leaves the reference.
	w.refuse(authorization(t, `{selector: {matchLabels: {app: db}}, rules: [{when: [{key: x, values: [v]}]}]}`, at("shop", "f")), "spec.rules[0].when[0].key")
	want("shop/f")
	// What is only for waypoints references nothing, and says so.
	for _, tt := range []struct{ spec, field string }{
		{`{selector: {matchLabels: {app: web}}, action: CUSTOM, provider: {name: x}, rules: [{to: [{operation: {paths: [/a]}}]}]}`, "spec.action"},
		{`{targetRefs: [{kind: Service, name: web}], rules: [{to: [{operation: {paths: [/a]}}]}]}`, "spec.targetRefs"},
	} {
		r := w.tr.Apply([]Event{{Object: authorization(t, tt.spec, at("shop", "f"))}})
		w.store.Apply(r.Changes...)
		if len(r.Problems) != 1 || !r.Problems[0].Partial || r.Problems[0].Field != tt.field || !strings.Contains(r.Problems[0].Error(), "not applied at L4") {
			t.Errorf("%s: got %v", tt.spec, r.Problems)
		}
		want()
		if w.store.Snapshot().Policy(mesh.Name{Namespace: "shop", Name: "f"}) != nil {
			t.Errorf("%s: a policy stays", tt.spec)
		}
	}
}
