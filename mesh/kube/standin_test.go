// SPDX-License-Identifier: Apache-2.0

package kube

import (
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/warren-mesh/warren/mesh"
)

// TestRefusedPolicyCloses: of a refused policy that has no last good version nothing may be let in that it might refuse.
func TestRefusedPolicyCloses(t *testing.T) {
	x := mesh.Name{Namespace: "shop", Name: "x"}
	all := []mesh.Rule{{}}
	for _, tt := range []struct {
		name, json string
		want       *mesh.Policy
	}{
		{"an ALLOW allows nothing", `{"spec":{"rules":[{"form":[]}]}}`, &mesh.Policy{Name: x, Scope: mesh.ScopeNamespace}},
		{"a DENY denies all", `{"spec":{"action":"DENY","selector":{"matchLabels":{"app":"web"}},"rules":[{"form":[]}]}}`,
			&mesh.Policy{Name: x, Scope: mesh.ScopeWorkload, Action: mesh.Deny, Rules: all}},
		{"an action nobody knows", `{"spec":{"action":"FORBID"}}`, &mesh.Policy{Name: x, Scope: mesh.ScopeNamespace, Action: mesh.Deny, Rules: all}},
		{"a selector nobody can read", `{"spec":{"selector":{"labels":{"app":"db"}}}}`, &mesh.Policy{Name: x, Scope: mesh.ScopeNamespace}},
		{"no object at all", `[]`, &mesh.Policy{Name: x, Scope: mesh.ScopeNamespace}},
		{"for a waypoint", `{"spec":{"targetRefs":[{"knd":"Service"}]}}`, nil},
		{"AUDIT", `{"spec":{"action":"AUDIT","x":1}}`, nil},
		{"CUSTOM", `{"spec":{"action":"CUSTOM","x":1}}`, nil},
		{"dry run", `{"metadata":{"annotations":{"istio.io/dry-run":"true"}},"spec":{"action":"DENY","x":1}}`, nil},
	} {
		w := newWorld(t, enrolledShop, webPod())
		k := Key{"AuthorizationPolicy", "shop", "x"}
		r := w.must(w.tr.Apply([]Event{{Object: Remnant(k, []byte(tt.json)), Refused: true}}))
		if d := cmp.Diff(tt.want, w.store.Snapshot().Policy(x)); d != "" {
			t.Errorf("%s (-want +got):\n%s\n%v", tt.name, d, r.Changes)
		}
		if refers := len(w.web().Policies) == 1; refers != (tt.want != nil && tt.want.Scope == mesh.ScopeWorkload) {
			t.Errorf("%s: the pod refers to %v", tt.name, w.web().Policies)
		}
		// Corrected, refused again, deleted.
		w.put(authorization(t, `{rules: [{}]}`))
		good := w.store.Snapshot().Policy(x)
		w.must(w.tr.Apply([]Event{{Object: Remnant(k, []byte(tt.json)), Refused: true}}))
		if w.store.Snapshot().Policy(x) != good {
			t.Errorf("%s: the last good one did not stay", tt.name)
		}
		w.delete(authorization(t, `{}`))
		if w.store.Snapshot().Policy(x) != nil {
			t.Errorf("%s: it stays after its end", tt.name)
		}
	}
	w := newWorld(t, enrolledShop, webPod())
	bad := authorization(t, `{action: DENY, rules: [{from: [{source: {ipBlocks: [10.0.0.0/33]}}]}]}`)
	w.store.Apply(w.tr.Apply([]Event{{Object: bad}}).Changes...)
	if p := w.store.Snapshot().Policy(x); p == nil || p.Action != mesh.Deny || len(p.Rules) != 1 || len(p.Rules[0].Clauses) != 0 {
		t.Errorf("with a wrong value: %+v", p)
	}
	// In a directory of files nothing keeps a name from being that of a converted policy.
	bad.Name = StrictPolicy
	w.store.Apply(w.tr.Apply([]Event{{Object: bad}}).Changes...)
	if w.store.Snapshot().Policy(mesh.Name{Namespace: "shop", Name: StrictPolicy}) != nil {
		t.Error("a name that may be another's was taken")
	}
}

func TestRefusedPeerAuthenticationIsStrict(t *testing.T) {
	strict := mesh.Name{Namespace: mesh.DefaultRootNamespace, Name: StrictPolicy}
	held := func(w *world) bool { return len(w.web().Policies) == 1 && w.web().Policies[0] == strict }
	for _, tt := range []struct {
		name, namespace, json string
		want                  bool
	}{
		{"its namespace", "shop", `{"spec":{"mtls":{"mode":"STRCT"}}}`, true},
		{"the mesh", mesh.DefaultRootNamespace, `{"spec":{"mtls":{"mode":"STRCT"}}}`, true},
		{"whom it selects", "shop", `{"spec":{"selector":{"matchLabels":{"app":"web"}},"mtls":{"mode":"STRCT"}}}`, true},
		{"nobody else", "shop", `{"spec":{"selector":{"matchLabels":{"app":"db"}},"mtls":{"mode":"STRCT"}}}`, false},
		{"a selector in the root namespace", mesh.DefaultRootNamespace, `{"spec":{"selector":{"matchLabels":{"app":"web"}},"x":1}}`, false},
		{"not the oldest", "shop", `{"metadata":{"creationTimestamp":"2026-01-03T00:00:00Z"},"spec":{"x":1}}`, false},
	} {
		w := newWorld(t, enrolledShop, webPod())
		if tt.name == "not the oldest" {
			older := peerAuthentication("shop", "older", permissive, 0)
			older.CreationTimestamp = metav1.NewTime(time.Date(2026, 1, 2, 0, 0, 0, 0, time.UTC))
			w.put(older)
		}
		k := Key{"PeerAuthentication", tt.namespace, "x"}
		w.must(w.tr.Apply([]Event{{Object: Remnant(k, []byte(tt.json)), Refused: true}}))
		if held(w) != tt.want {
			t.Errorf("%s: the pod refers to %v", tt.name, w.web().Policies)
		}
		w.put(peerAuthentication(tt.namespace, "x", permissive, 0))
		w.must(w.tr.Apply([]Event{{Object: Remnant(k, []byte(tt.json)), Refused: true}}))
		if held(w) {
			t.Errorf("%s: the last good one did not stay", tt.name)
		}
	}
}
