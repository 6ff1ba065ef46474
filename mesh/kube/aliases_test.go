// SPDX-License-Identifier: Apache-2.0

package kube

import (
	"testing"

	securityv1beta1 "istio.io/api/security/v1beta1"
	istiosecurity "istio.io/client-go/pkg/apis/security/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/warren-mesh/warren/api/v1alpha1"
	"github.com/warren-mesh/warren/mesh"
)

// TestAliases: who has an identity in one of the mesh's trust domains is met by what names any of them.
func TestAliases(t *testing.T) {
	const mine, old, strange = "cluster.local/ns/shop/sa/cart", "old.example/ns/shop/sa/cart", "evil.example/ns/shop/sa/cart"
	name := mesh.Name{Namespace: "shop", Name: "p"}
	for _, tt := range []struct {
		value              string
		mine, old, strange bool
	}{
		{mine, true, true, false},
		{old, true, true, false},
		{"spiffe://" + old, true, true, false},
		{strange, false, false, true},
		{"cluster.local/*", true, true, false},
		{"old.example/ns/shop/*", true, true, false},
		{"old.example/ns/other/*", false, false, false},
		{"old*", true, true, false},
		{"evil*", false, false, true},
		{"*/ns/shop/sa/cart", true, true, true},
		{"*example/ns/shop/sa/cart", true, true, true},
		{"*local/ns/shop/sa/cart", true, true, false},
		{"*/sa/cart", true, true, true},
		{"*", true, true, true},
		{"cluster.local", false, false, false},
	} {
		policy := &istiosecurity.AuthorizationPolicy{
			ObjectMeta: metav1.ObjectMeta{Namespace: "shop", Name: "p"},
			Spec: securityv1beta1.AuthorizationPolicy{Rules: []*securityv1beta1.Rule{{From: []*securityv1beta1.Rule_From{
				{Source: &securityv1beta1.Source{Principals: []string{tt.value}}},
				{Source: &securityv1beta1.Source{NotPrincipals: []string{tt.value}}},
			}}}},
		}
		w := newWorld(t, enrolledShop, webPod(), policy)
		config := meshConfig(v1alpha1.MeshConfigSpec{TrustDomainAliases: []string{"old.example"}})
		r := w.put(config)
		matches := func(principal string) bool {
			m := w.store.Snapshot().Policy(name).Rules[0].Clauses[0].Matches
			any := func(ms []mesh.StringMatch) bool {
				for _, m := range ms {
					if m.Matches(principal) {
						return true
					}
				}
				return false
			}
			if any(m[0].Principals) != any(m[1].NotPrincipals) {
				t.Errorf("%s: %s fits principals and notPrincipals differently", tt.value, principal)
			}
			return any(m[0].Principals)
		}
		for p, want := range map[string]bool{mine: tt.mine, old: tt.old, strange: tt.strange} {
			if matches(p) != want {
				t.Errorf("%s: matches %s %v, want %v", tt.value, p, !want, want)
			}
		}
		w.put(config)
		if len(r.Changes) > 0 && len(w.put(config).Changes) > 0 {
			t.Errorf("%s: the same again is a change", tt.value)
		}
		w.delete(config)
		if tt.value == mine && (matches(old) || !matches(mine)) {
			t.Error("an alias outlives the MeshConfig")
		}
	}
}
