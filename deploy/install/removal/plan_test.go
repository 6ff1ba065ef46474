// SPDX-License-Identifier: Apache-2.0

package removal

import (
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes/fake"
)

func TestPlan(t *testing.T) {
	nodes := []corev1.Node{
		*node("in", corev1.ConditionTrue, "pool=mesh"), *node("out", corev1.ConditionTrue), *node("dead", corev1.ConditionUnknown),
		*node("win", corev1.ConditionTrue, "kubernetes.io/os=windows"), *node("win-dead", corev1.ConditionFalse, "kubernetes.io/os=windows"),
		*node("virtual", corev1.ConditionTrue, "type=virtual"), *node("virtual-dead", corev1.ConditionUnknown, "type=virtual"),
	}
	pod := cleaning()
	for _, tt := range []struct {
		name   string
		pod    *corev1.PodTemplateSpec
		want   plan
		unseen []string // when a pod of "virtual" is captured
	}{
		{
			"by the template's terms", &pod,
			plan{ready: []string{"in", "out"}, away: []string{"dead"}, other: []string{"win", "win-dead", "virtual", "virtual-dead"}},
			[]string{"dead", "virtual"},
		},
		{
			"without it: Linux, and nothing can be cleaned", nil,
			plan{ready: []string{"in", "out", "virtual"}, away: []string{"dead", "virtual-dead"}, other: []string{"win", "win-dead"}},
			[]string{"dead", "in", "out", "virtual", "virtual-dead"},
		},
	} {
		t.Run(tt.name, func(t *testing.T) {
			got, err := planFor(nodes, tt.pod)
			if err != nil {
				t.Fatal(err)
			}
			tt.want.pod = tt.pod
			if diff := cmp.Diff(tt.want, got, cmp.AllowUnexported(plan{})); diff != "" {
				t.Errorf("(-want +got)\n%s", diff)
			}
			if got := got.unseen([]string{"virtual", "in"}); !slices.Equal(got, tt.unseen) {
				t.Errorf("not looked at are %v, want %v", got, tt.unseen)
			}
		})
	}
}

func TestTermsThatNobodyUnderstands(t *testing.T) {
	c := installed(node("a", corev1.ConditionTrue))
	odd := cleaning()
	odd.Spec.Affinity.NodeAffinity.RequiredDuringSchedulingIgnoredDuringExecution.NodeSelectorTerms[0].MatchExpressions[0].Operator = "Perhaps"
	o := &corev1.PodTemplate{ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: template}, Template: odd}
	if err := c.Tracker().Update(corev1.SchemeGroupVersion.WithResource("podtemplates"), o, namespace); err != nil {
		t.Fatal(err)
	}
	if _, err := run(t, c, false); err == nil || !strings.Contains(err.Error(), "Perhaps") {
		t.Errorf("got %v", err)
	}
	if did := actions(c); len(did) > 0 {
		t.Errorf("and did %v", did)
	}
}

// TestNodesThatCanNotRunAPod are no reason to refuse or to wait, ready or not.
func TestNodesThatCanNotRunAPod(t *testing.T) {
	c := installed(node("a", corev1.ConditionTrue), node("win", corev1.ConditionUnknown, "kubernetes.io/os=windows"), node("virtual", corev1.ConditionTrue, "type=virtual"))
	unseen, _, err := runSeeing(t, c, false)
	if err != nil || len(unseen) > 0 {
		t.Errorf("not looked at: %v, %v", unseen, err)
	}
	if got := sentTo(c); !slices.Equal(got, []string{"a"}) {
		t.Errorf("pods were sent to %v", got)
	}
}

// sentTo are the nodes that got a pod.
func sentTo(c *fake.Clientset) []string {
	var out []string
	for _, a := range actions(c) {
		if node, ok := strings.CutPrefix(a, "create pods "); ok {
			out = append(out, node)
		}
	}
	return out
}

// TestNodeThatTheMeshLeft has a node that the affinity excludes by now: a pod says that it was in the mesh.
func TestNodeThatTheMeshLeft(t *testing.T) {
	c := installed(node("a", corev1.ConditionTrue), node("left", corev1.ConditionTrue, "type=virtual"))
	never := capturedPod("never", "left")
	never.Annotations[captured] = "NotEnrolled"
	for _, p := range []*corev1.Pod{capturedPod("stuck", "left"), never} {
		if err := c.Tracker().Add(p); err != nil {
			t.Fatal(err)
		}
	}
	unseen, said, err := runSeeing(t, c, false)
	if err != nil || !slices.Equal(unseen, []string{"left"}) {
		t.Errorf("not looked at: %v, %v; want the node left", unseen, err)
	}
	for _, want := range []string{"1 pods go on outside the mesh", "1 pods stay captured"} {
		if !strings.Contains(said, want) {
			t.Errorf("said %q, want %q", said, want)
		}
	}
}

// TestWithoutTheTemplate no node is looked at, and none is taken for clean; what does not need it is done.
func TestWithoutTheTemplate(t *testing.T) {
	c := installed(node("b", corev1.ConditionTrue), node("a", corev1.ConditionTrue))
	if err := c.CoreV1().PodTemplates(namespace).Delete(t.Context(), template, metav1.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}
	unseen, said, err := runSeeing(t, c, false)
	if err != nil || !slices.Equal(unseen, []string{"a", "b"}) {
		t.Errorf("not looked at: %v, %v; want both nodes", unseen, err)
	}
	if !strings.Contains(said, "no PodTemplate warren-system/warren-remove") || strings.Contains(said, "cleaning") {
		t.Errorf("said %q", said)
	}
	did := actions(c)
	for _, want := range []string{"delete daemonsets warren-node", "delete daemonsets warren-ztunnel", "delete deployments warren-control", "patch pods web"} {
		if !slices.Contains(did, want) {
			t.Errorf("did %v, want %s", did, want)
		}
	}
	if n := sentTo(c); len(n) > 0 {
		t.Errorf("pods were sent to %v", n)
	}
}
