// SPDX-License-Identifier: Apache-2.0

package kube

import (
	"testing"

	"github.com/google/go-cmp/cmp"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// The plugin starts pods by this list while no agent answers: a namespace with one pod of the mesh must be asked about.
func TestNamespacesStandAsObjectsSay(t *testing.T) {
	ns := func(name string, labels map[string]string) *corev1.Namespace {
		return &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: name, Labels: labels}}
	}
	pod := func(name string, labels map[string]string) *corev1.Pod {
		return &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: "b", Name: name, UID: "u-" + "x", Labels: labels}}
	}
	enabled := map[string]string{KeyMesh: "enabled"}
	tr := NewTranslator(Config{})
	tr.Apply([]Event{{Object: ns("a", enabled)}, {Object: ns("b", nil)}, {Object: ns("kube-system", enabled)}})
	excluded := []string{"kube-system", "warren-system"}
	expect := func(when string, got *Namespaces, want *Namespaces) {
		t.Helper()
		if d := cmp.Diff(want, got); d != "" {
			t.Errorf("%s (-want +got)\n%s", when, d)
		}
	}
	expect("at first", tr.Synced().Namespaces, &Namespaces{Enrolled: []string{"a"}, Excluded: excluded, Outside: []string{"b"}})
	expect("a pod outside", tr.Apply([]Event{{Object: pod("p", nil)}}).Namespaces, nil)
	expect("a pod that opts in", tr.Apply([]Event{{Object: pod("p", enabled)}}).Namespaces, &Namespaces{Enrolled: []string{"a", "b"}, Excluded: excluded})
	expect("and goes", tr.Apply([]Event{{Object: pod("p", nil), Deleted: true}}).Namespaces, &Namespaces{Enrolled: []string{"a"}, Excluded: excluded, Outside: []string{"b"}})
	expect("un-enrolled", tr.Apply([]Event{{Object: ns("a", nil)}}).Namespaces, &Namespaces{Excluded: excluded, Outside: []string{"a", "b"}})
	expect("deleted", tr.Apply([]Event{{Object: ns("a", nil), Deleted: true}}).Namespaces, &Namespaces{Excluded: excluded, Outside: []string{"b"}})
}
