// SPDX-License-Identifier: Apache-2.0

package kube

import (
	"slices"
	"testing"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/runtime"

	"github.com/warren-mesh/warren/mesh"
)

// A wrong word about enrolment neither lets go of a pod nor takes another in, and hides none from its node.
func TestUnreadableEnrolment(t *testing.T) {
	wrongShop, wrong := namespace("shop", KeyMesh, "on"), label(KeyMesh, "true")
	type step struct {
		put     []runtime.Object
		reason  string // why it is not enrolled
		capture mesh.Capture
	}
	for _, tt := range []struct {
		name  string
		steps []step // the first is the initial list
	}{
		{"of a new pod", []step{
			{[]runtime.Object{enrolledShop, webPod(pending, wrong)}, EnrolmentUnreadable, mesh.Pending},
			{[]runtime.Object{webPod(wrong)}, EnrolmentUnreadable, mesh.Pending},
			{[]runtime.Object{webPod(wrong, published(OptedOut))}, EnrolmentUnreadable, mesh.Pending},
			{[]runtime.Object{webPod()}, "", mesh.Pending}, // not seen outside
		}},
		{"of a new pod, by its annotation", []step{
			{[]runtime.Object{enrolledShop, webPod(annotation(KeyMesh, ""))}, EnrolmentUnreadable, mesh.Pending},
		}},
		{"of a pod that its node captured", []step{
			{[]runtime.Object{enrolledShop, webPod(wrong, published("true"))}, "", mesh.Captured},
			{[]runtime.Object{webPod(wrong, published("NoNetns"))}, "", mesh.Pending},
			{[]runtime.Object{webPod(wrong)}, "", mesh.Pending}, // whoever took the annotation away
			{[]runtime.Object{webPod(label(KeyMesh, "disabled"))}, OptedOut, mesh.Outside},
			{[]runtime.Object{webPod(wrong)}, OptedOut, mesh.Outside},
		}},
		{"of a pod that its node is about to capture", []step{
			{[]runtime.Object{enrolledShop, webPod(wrong, published("NoNetns"))}, "", mesh.Pending},
		}},
		{"of a pod seen in the mesh", []step{
			{[]runtime.Object{enrolledShop, webPod()}, "", mesh.Pending},
			{[]runtime.Object{webPod(wrong)}, "", mesh.Pending},
			{[]runtime.Object{namespace("shop")}, NotEnrolled, mesh.Outside}, // its own word is none still
		}},
		{"of a pod seen outside", []step{
			{[]runtime.Object{namespace("shop"), webPod()}, NotEnrolled, mesh.Outside},
			{[]runtime.Object{webPod(wrong)}, NotEnrolled, mesh.Outside},
		}},
		{"of a pod that is never captured", []step{
			{[]runtime.Object{enrolledShop, webPod(wrong, hostNetwork)}, HostNetwork, mesh.Outside},
		}},
		{"of a namespace", []step{
			{[]runtime.Object{wrongShop, webPod()}, EnrolmentUnreadable, mesh.Pending},
			{[]runtime.Object{enrolledShop}, "", mesh.Pending},
			{[]runtime.Object{wrongShop}, "", mesh.Pending},
			{[]runtime.Object{namespace("shop")}, NotEnrolled, mesh.Outside},
			{[]runtime.Object{wrongShop}, NotEnrolled, mesh.Outside},
		}},
		{"of the namespace of a captured pod", []step{
			{[]runtime.Object{wrongShop, webPod(published("true"))}, "", mesh.Captured},
			{[]runtime.Object{webPod()}, "", mesh.Pending},
		}},
		{"of the namespace of a pod that asks for itself", []step{
			{[]runtime.Object{wrongShop, webPod(label(KeyMesh, "enabled"))}, "", mesh.Pending},
			{[]runtime.Object{webPod(label(KeyMesh, "disabled"))}, OptedOut, mesh.Outside},
		}},
		{"no namespace, and a captured pod", []step{
			{[]runtime.Object{webPod(published("true"))}, "", mesh.Captured},
			{[]runtime.Object{webPod(published("NoNetns"))}, "", mesh.Pending},
		}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			w := newWorld(t)
			other := webPod(uid("u2"), label(KeyMesh, "enabled"), func(p *corev1.Pod) { p.Name, p.Status.PodIPs = "other", nil })
			w.tr = NewTranslator(Config{Node: "a"})
			for i, s := range tt.steps {
				r := w.tr.Apply(events(s.put))
				if i == 0 {
					w.tr.Apply(events([]runtime.Object{other}))
					r = w.tr.Synced()
				}
				w.store.Apply(r.Changes...)
				l, got := w.tr.emitted.local["u1"], w.web()
				if l.UID == "" || got == nil {
					t.Fatalf("step %d: the pod is not there", i)
				}
				if l.Enrolled != (s.reason == "") || l.Reason != s.reason || got.Capture != s.capture || len(got.Addresses) != 2 {
					t.Fatalf("step %d: enrolled %v %q, %v; want %q, %v", i, l.Enrolled, l.Reason, got.Capture, s.reason, s.capture)
				}
				if !w.tr.emitted.local["u2"].Enrolled {
					t.Fatalf("step %d: another pod of the namespace is touched", i)
				}
			}
		})
	}
}

// The rest of a pod with a wrong word counts; of a namespace nothing is known then, and the CNI plugin has to ask.
func TestWhatStandsBesideUnreadableEnrolment(t *testing.T) {
	w := newWorld(t, enrolledShop, webPod())
	r := w.tr.Apply(events([]runtime.Object{webPod(notReady, label(KeyMesh, "true")), namespace("other", KeyMesh, "on"), namespace("third")}))
	w.store.Apply(r.Changes...)
	if w.web().Ready {
		t.Error("the pod's state is not read")
	}
	ps := w.tr.Problems()
	if len(ps) != 2 || ps[0].Object != "Namespace other" || ps[0].Partial || ps[1].Object != "Pod shop/web" || !ps[1].Partial || ps[1].Field != "metadata.labels[warren.dev/mesh]" {
		t.Errorf("problems %+v", ps)
	}
	if w.tr.StandIns(ps); ps[0].InForce == "" {
		t.Error("nothing says what becomes of the namespace's pods")
	}
	if n := r.Namespaces; n == nil || !slices.Equal(n.Enrolled, []string{"shop"}) || !slices.Equal(n.Outside, []string{"third"}) {
		t.Errorf("namespaces %+v", r.Namespaces)
	}
}
