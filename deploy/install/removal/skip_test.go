// SPDX-License-Identifier: Apache-2.0

package removal

import (
	"slices"
	"testing"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/client-go/kubernetes/fake"
	kubetesting "k8s.io/client-go/testing"
)

// partPod is a pod of one of Warren's parts.
func partPod(part, node string) *corev1.Pod {
	return &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: part + "-" + node, Labels: map[string]string{partName: part, "app.kubernetes.io/part-of": "warren"}},
		Spec:       corev1.PodSpec{NodeName: node},
	}
}

// withKubelets gives a cluster these pods, and on every node but one a kubelet: once a part's owner is deleted its pods there
// end. On the dead node a pod goes by force alone. It returns the names of those forced, as they come.
func withKubelets(t *testing.T, c *fake.Clientset, dead string, pods ...*corev1.Pod) (forced *[]string) {
	t.Helper()
	for _, p := range pods {
		if err := c.Tracker().Add(p); err != nil {
			t.Fatal(err)
		}
	}
	resource := corev1.SchemeGroupVersion.WithResource("pods")
	owner := func(a kubetesting.Action) (bool, runtime.Object, error) {
		for _, p := range pods {
			if p.Labels[partName] == a.(kubetesting.DeleteAction).GetName() && p.Spec.NodeName != dead {
				if err := c.Tracker().Delete(resource, namespace, p.Name); err != nil {
					t.Error(err)
				}
			}
		}
		return false, nil, nil
	}
	c.PrependReactor("delete", "daemonsets", owner)
	c.PrependReactor("delete", "deployments", owner)
	forced = new([]string)
	c.PrependReactor("delete", "pods", func(a kubetesting.Action) (bool, runtime.Object, error) {
		d := a.(kubetesting.DeleteAction)
		if !slices.ContainsFunc(pods, func(p *corev1.Pod) bool { return p.Name == d.GetName() }) {
			return false, nil, nil
		}
		grace := d.GetDeleteOptions().GracePeriodSeconds
		if grace == nil || *grace > 0 {
			return true, nil, nil // it is asked to end, and nobody answers
		}
		*forced = append(*forced, d.GetName())
		return false, nil, nil
	})
	return forced
}

// TestPodsOfASkippedNodeGo: no kubelet is there that would say they have ended, and the namespace could not end before them.
func TestPodsOfASkippedNodeGo(t *testing.T) {
	c := installed(node("a", corev1.ConditionTrue), node("dead", corev1.ConditionUnknown))
	other := partPod("others", "dead")
	other.Labels = map[string]string{partName: "others"}
	pods := []*corev1.Pod{
		partPod(nodeSet, "a"), partPod(ztunnelSet, "a"), partPod(control, "a"),
		partPod(nodeSet, "dead"), partPod(ztunnelSet, "dead"), partPod(control, "dead"), partPod(template, "dead"), other,
		partPod("warren-remove-job", "a"), // which is at work
	}
	forced := withKubelets(t, c, "dead", pods...)
	if _, err := run(t, c, true); err != nil {
		t.Fatal(err)
	}
	slices.Sort(*forced)
	if want := []string{"warren-control-dead", "warren-node-dead", "warren-remove-dead", "warren-ztunnel-dead"}; !slices.Equal(*forced, want) {
		t.Errorf("deleted by force: %v, want %v", *forced, want)
	}
	left, err := c.CoreV1().Pods(namespace).List(t.Context(), metav1.ListOptions{})
	if err != nil {
		t.Fatal(err)
	}
	var names []string
	for _, p := range left.Items {
		names = append(names, p.Name)
	}
	if want := []string{"others-dead", "warren-remove-job-a"}; !slices.Equal(names, want) {
		t.Errorf("left are %v, want %v: what is not Warren's, and what is not on a skipped node", names, want)
	}
}

// TestNoPodIsForced while every node is there: who ends a pod by force leaves what it holds on the node.
func TestNoPodIsForced(t *testing.T) {
	c := installed(node("a", corev1.ConditionTrue), node("b", corev1.ConditionTrue))
	forced := withKubelets(t, c, "", partPod(nodeSet, "a"), partPod(ztunnelSet, "b"), partPod(control, "b"))
	if _, err := run(t, c, true); err != nil {
		t.Fatal(err)
	}
	if len(*forced) > 0 {
		t.Errorf("deleted by force: %v", *forced)
	}
}
