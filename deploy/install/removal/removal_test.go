// SPDX-License-Identifier: Apache-2.0

package removal

import (
	"context"
	"slices"
	"strings"
	"testing"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/client-go/kubernetes/fake"
	kubetesting "k8s.io/client-go/testing"
)

// node is a Linux node, with further labels or others in place of that: "key=value".
func node(name string, ready corev1.ConditionStatus, pairs ...string) *corev1.Node {
	set := map[string]string{corev1.LabelOSStable: "linux"}
	for _, p := range pairs {
		key, value, _ := strings.Cut(p, "=")
		set[key] = value
	}
	return &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: name, Labels: set}, Status: corev1.NodeStatus{
		Conditions: []corev1.NodeCondition{{Type: corev1.NodeReady, Status: ready}},
	}}
}

// cleaning is a template like the chart's: of Linux nodes, but for virtual ones.
func cleaning() corev1.PodTemplateSpec {
	return corev1.PodTemplateSpec{
		ObjectMeta: metav1.ObjectMeta{Labels: map[string]string{partName: template}},
		Spec: corev1.PodSpec{
			NodeSelector: map[string]string{corev1.LabelOSStable: "linux"},
			Affinity: &corev1.Affinity{NodeAffinity: &corev1.NodeAffinity{RequiredDuringSchedulingIgnoredDuringExecution: &corev1.NodeSelector{
				NodeSelectorTerms: []corev1.NodeSelectorTerm{{MatchExpressions: []corev1.NodeSelectorRequirement{
					{Key: "type", Operator: corev1.NodeSelectorOpNotIn, Values: []string{"virtual"}},
				}}},
			}}},
		},
	}
}

// installed is a cluster with Warren on it: what a removal looks at.
func installed(nodes ...*corev1.Node) *fake.Clientset {
	in := func(name string) metav1.ObjectMeta { return metav1.ObjectMeta{Namespace: namespace, Name: name} }
	made := in(secret)
	made.Labels = map[string]string{managedBy: byController}
	objects := []runtime.Object{
		&corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: "shop"}},
		&corev1.PodTemplate{ObjectMeta: in(template), Template: cleaning()},
		&appsv1.DaemonSet{ObjectMeta: in(nodeSet)}, &appsv1.DaemonSet{ObjectMeta: in(ztunnelSet)}, &appsv1.Deployment{ObjectMeta: in(control)},
		&corev1.Secret{ObjectMeta: made},
		&corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Namespace: "shop", Name: bundle}},
		capturedPod("web", "a"),
	}
	for _, n := range nodes {
		objects = append(objects, n)
	}
	c := fake.NewClientset(objects...)
	// No kubelet is there: a pod that cleans has done so at once.
	c.PrependReactor("create", "pods", func(a kubetesting.Action) (bool, runtime.Object, error) {
		a.(kubetesting.CreateAction).GetObject().(*corev1.Pod).Status.Phase = corev1.PodSucceeded
		return false, nil, nil
	})
	return c
}

func capturedPod(name, node string) *corev1.Pod {
	return &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{Namespace: "shop", Name: name, Annotations: map[string]string{captured: capturedTrue, "mine": "1"}},
		Spec:       corev1.PodSpec{NodeName: node},
	}
}

// actions are what changed the cluster, in order: "delete daemonsets warren-node".
func actions(c *fake.Clientset) []string {
	var out []string
	for _, a := range c.Actions() {
		switch a := a.(type) {
		case kubetesting.DeleteAction:
			out = append(out, "delete "+a.GetResource().Resource+" "+a.GetName())
		case kubetesting.CreateAction:
			out = append(out, "create "+a.GetResource().Resource+" "+a.GetObject().(*corev1.Pod).Spec.NodeName)
		case kubetesting.PatchAction:
			out = append(out, "patch "+a.GetResource().Resource+" "+a.GetName())
		}
	}
	return out
}

func run(t *testing.T, c *fake.Clientset, skip bool) (said string, err error) {
	t.Helper()
	_, said, err = runSeeing(t, c, skip)
	return said, err
}

// runSeeing also returns the nodes that were not looked at.
func runSeeing(t *testing.T, c *fake.Clientset, skip bool) (unseen []string, said string, err error) {
	t.Helper()
	return runFor(t, 10*time.Second, c, skip)
}

func runFor(t *testing.T, within time.Duration, c *fake.Clientset, skip bool) (unseen []string, said string, err error) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), within)
	defer cancel()
	var b strings.Builder
	unseen, err = Run(ctx, Options{Client: c, Dynamic: policies(t), SkipNotReady: skip, Progress: &b})
	return unseen, b.String(), err
}

func TestNodesAreCleanedBetweenAgentsAndZtunnels(t *testing.T) {
	c := installed(node("a.example", corev1.ConditionTrue), node("b", corev1.ConditionTrue))
	if _, err := run(t, c, false); err != nil {
		t.Fatal(err)
	}
	want := []string{
		"delete daemonsets warren-node", "create pods a.example", "create pods b", "delete pods warren-remove-a.example", "delete pods warren-remove-b",
		"delete daemonsets warren-ztunnel", "delete deployments warren-control", "patch pods web",
	}
	got := actions(c)
	if len(got) < len(want) || strings.Join(got[:len(want)], "\n") != strings.Join(want, "\n") {
		t.Errorf("did\n  %s\nwant first\n  %s", strings.Join(got, "\n  "), strings.Join(want, "\n  "))
	}
	p, err := c.CoreV1().Pods("shop").Get(t.Context(), "web", metav1.GetOptions{})
	if err != nil || len(p.Annotations) != 1 || p.Annotations["mine"] != "1" {
		t.Errorf("the pod's annotations: %v, %v", p.Annotations, err)
	}
	for what, gone := range map[string]func() error{
		"ConfigMap": func() error {
			_, err := c.CoreV1().ConfigMaps("shop").Get(t.Context(), bundle, metav1.GetOptions{})
			return err
		},
		"Secret": func() error {
			_, err := c.CoreV1().Secrets(namespace).Get(t.Context(), secret, metav1.GetOptions{})
			return err
		},
	} {
		if gone() == nil {
			t.Errorf("the %s is still there", what)
		}
	}
}

// TestNodesOfLikeNames: each has a pod of its own, or one of them is taken for clean when the other is.
func TestNodesOfLikeNames(t *testing.T) {
	if podName("a.b") == podName("a-b") {
		t.Errorf("both are cleaned by %s", podName("a.b"))
	}
}

func TestRefusesWhileANodeIsNotReady(t *testing.T) {
	c := installed(node("a", corev1.ConditionTrue), node("far", corev1.ConditionUnknown))
	_, err := run(t, c, false)
	if err == nil || !strings.Contains(err.Error(), "far") {
		t.Errorf("got %v, want a refusal that names the node", err)
	}
	if did := actions(c); len(did) > 0 {
		t.Errorf("and did %v", did)
	}
	unseen, said, err := runSeeing(t, c, true)
	if err != nil || !strings.Contains(said, "skipped: far") || !slices.Equal(unseen, []string{"far"}) {
		t.Errorf("told to skip it: %v, said %q, not looked at %v", err, said, unseen)
	}
	for _, a := range actions(c) {
		if a == "create pods far" {
			t.Error("a pod was sent to it")
		}
	}
}

func TestEachRemovalCanBeRunAgain(t *testing.T) {
	c := installed(node("a", corev1.ConditionTrue))
	left := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: podName("a")}, Status: corev1.PodStatus{Phase: corev1.PodFailed}}
	if err := c.Tracker().Add(left); err != nil {
		t.Fatal(err)
	}
	for range 2 {
		if _, err := run(t, c, false); err != nil {
			t.Fatal(err)
		}
	}
}

func TestOthersSecretStays(t *testing.T) {
	c := installed(node("a", corev1.ConditionTrue))
	own := &corev1.Secret{ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: secret}}
	if _, err := c.CoreV1().Secrets(namespace).Update(t.Context(), own, metav1.UpdateOptions{}); err != nil {
		t.Fatal(err)
	}
	if _, err := run(t, c, false); err != nil {
		t.Fatal(err)
	}
	if _, err := c.CoreV1().Secrets(namespace).Get(t.Context(), secret, metav1.GetOptions{}); err != nil {
		t.Errorf("the Secret a user brought: %v", err)
	}
}

func TestFailureOfANodeIsTold(t *testing.T) {
	c := installed(node("a", corev1.ConditionTrue))
	c.PrependReactor("create", "pods", func(a kubetesting.Action) (bool, runtime.Object, error) {
		a.(kubetesting.CreateAction).GetObject().(*corev1.Pod).Status = corev1.PodStatus{Phase: corev1.PodRunning, ContainerStatuses: []corev1.ContainerStatus{{
			Name: "broker", LastTerminationState: corev1.ContainerState{Terminated: &corev1.ContainerStateTerminated{ExitCode: 1, Message: "no bpffs"}},
		}}}
		return true, nil, c.Tracker().Add(a.(kubetesting.CreateAction).GetObject())
	})
	ctx, cancel := context.WithTimeout(t.Context(), time.Second)
	defer cancel()
	_, err := Run(ctx, Options{Client: c, Dynamic: policies(t)})
	if err == nil || !strings.Contains(err.Error(), "a (broker: exit code 1 no bpffs)") {
		t.Errorf("got %v", err)
	}
	for _, a := range actions(c) {
		if a == "delete daemonsets warren-ztunnel" {
			t.Error("ztunnel was ended although a node still redirects to it")
		}
	}
}
