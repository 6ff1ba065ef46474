// SPDX-License-Identifier: Apache-2.0

package install

import (
	"context"
	"slices"
	"testing"

	"github.com/google/go-cmp/cmp"
	appsv1 "k8s.io/api/apps/v1"
	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	dynamicfake "k8s.io/client-go/dynamic/fake"
	"k8s.io/client-go/kubernetes/fake"
	kubetesting "k8s.io/client-go/testing"
	"k8s.io/component-helpers/scheduling/corev1/nodeaffinity"

	"github.com/warren-mesh/warren/deploy/install/removal"
)

// nodeKinds are a node of each kind that the chart tells from others.
func nodeKinds() []*corev1.Node {
	node := func(name string, labels map[string]string) *corev1.Node {
		if labels[corev1.LabelOSStable] == "" {
			labels[corev1.LabelOSStable] = "linux"
		}
		return &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: name, Labels: labels}, Status: corev1.NodeStatus{
			Conditions: []corev1.NodeCondition{{Type: corev1.NodeReady, Status: corev1.ConditionTrue}},
		}}
	}
	return []*corev1.Node{
		node("mesh", map[string]string{"pool": "mesh"}), node("plain", map[string]string{}), node("ec2", map[string]string{"eks.amazonaws.com/compute-type": "ec2"}),
		node("windows", map[string]string{corev1.LabelOSStable: "windows"}),
		node("fargate", map[string]string{"eks.amazonaws.com/compute-type": "fargate"}), node("virtual", map[string]string{"type": "virtual-kubelet"}),
	}
}

// where are the nodes that a pod may run on.
func where(t *testing.T, spec corev1.PodSpec) []string {
	t.Helper()
	terms := nodeaffinity.GetRequiredNodeAffinity(&corev1.Pod{Spec: spec})
	var out []string
	for _, n := range nodeKinds() {
		fits, err := terms.Match(n)
		if err != nil {
			t.Fatal(err)
		}
		if fits {
			out = append(out, n.Name)
		}
	}
	return out
}

// cleanedNodes runs a removal with the template on a cluster of all kinds, and returns where its pods were sent.
func cleanedNodes(t *testing.T, template corev1.PodTemplate) []string {
	t.Helper()
	objects := []runtime.Object{&template}
	for _, n := range nodeKinds() {
		objects = append(objects, n)
	}
	c := fake.NewClientset(objects...)
	var out []string
	c.PrependReactor("create", "pods", func(a kubetesting.Action) (bool, runtime.Object, error) {
		p := a.(kubetesting.CreateAction).GetObject().(*corev1.Pod)
		p.Status.Phase = corev1.PodSucceeded
		out = append(out, p.Spec.NodeName)
		return false, nil, nil
	})
	policies := dynamicfake.NewSimpleDynamicClientWithCustomListKinds(runtime.NewScheme(), map[schema.GroupVersionResource]string{
		{Group: "security.istio.io", Version: "v1", Resource: "authorizationpolicies"}: "AuthorizationPolicyList",
		{Group: "security.istio.io", Version: "v1", Resource: "peerauthentications"}:   "PeerAuthenticationList",
	})
	unseen, err := removal.Run(t.Context(), removal.Options{Client: c, Dynamic: policies})
	if err != nil || len(unseen) > 0 {
		t.Errorf("not looked at: %v, %v", unseen, err)
	}
	slices.Sort(out)
	return out
}

// TestWherePodsRun: nodeSelector narrows the mesh and not its removal, which goes wherever a pod of Warren's may ever have run.
func TestWherePodsRun(t *testing.T) {
	affinity := func(key string) map[string]any {
		return map[string]any{"nodeAffinity": map[string]any{"requiredDuringSchedulingIgnoredDuringExecution": map[string]any{
			"nodeSelectorTerms": []any{map[string]any{"matchExpressions": []any{map[string]any{"key": key, "operator": "DoesNotExist"}}}},
		}}}
	}
	for _, tt := range []struct {
		name          string
		values        map[string]any
		mesh, removal []string
	}{
		{"by default", nil, []string{"mesh", "plain", "ec2"}, []string{"ec2", "mesh", "plain"}},
		{"a narrow selector", map[string]any{"nodeSelector": map[string]any{"pool": "mesh"}}, []string{"mesh"}, []string{"ec2", "mesh", "plain"}},
		{"an affinity of one's own", map[string]any{"affinity": affinity("type")}, []string{"mesh", "plain", "ec2", "fargate"}, []string{"ec2", "fargate", "mesh", "plain"}},
		{"none", map[string]any{"affinity": nil}, []string{"mesh", "plain", "ec2", "fargate", "virtual"}, []string{"ec2", "fargate", "mesh", "plain", "virtual"}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			values := map[string]any{}
			if tt.values != nil {
				values["daemonSets"] = tt.values
			}
			stream := render(t, values)["02-warren.yaml"]
			sets := objects[appsv1.DaemonSet](t, stream, "DaemonSet")
			if len(sets) != 2 {
				t.Fatalf("%d DaemonSets", len(sets))
			}
			for _, d := range sets {
				if diff := cmp.Diff(tt.mesh, where(t, d.Spec.Template.Spec)); diff != "" {
					t.Errorf("%s (-want +got)\n%s", d.Name, diff)
				}
			}
			if diff := cmp.Diff(tt.removal, cleanedNodes(t, objects[corev1.PodTemplate](t, stream, "PodTemplate")[0])); diff != "" {
				t.Errorf("cleaned (-want +got)\n%s", diff)
			}
		})
	}
}

// TestRemovalNeedsNoNetwork: neither its pods nor the Job that makes them take a CNI chain that works; and the Job runs
// where control does.
func TestRemovalNeedsNoNetwork(t *testing.T) {
	s, err := findSource(t.Context(), "")
	if err != nil {
		t.Fatal(err)
	}
	ch, err := loadChart(s)
	if err != nil {
		t.Fatal(err)
	}
	rendered, err := dryRun(context.Background(), ch, map[string]any{"image": PlaceholderImage, "control": map[string]any{"nodeSelector": map[string]any{"pool": "infra"}}})
	if err != nil {
		t.Fatal(err)
	}
	var hooks string
	for _, h := range rendered.Hooks {
		hooks += "\n---\n" + h.Manifest
	}
	jobs := objects[batchv1.Job](t, []byte(hooks), "Job")
	if len(jobs) != 1 {
		t.Fatalf("%d Jobs among the hooks", len(jobs))
	}
	pod := jobs[0].Spec.Template.Spec
	if diff := cmp.Diff(map[string]string{corev1.LabelOSStable: "linux", "pool": "infra"}, pod.NodeSelector); diff != "" {
		t.Errorf("the Job's nodeSelector (-want +got)\n%s", diff)
	}
	template := objects[corev1.PodTemplate](t, []byte(rendered.Manifest), "PodTemplate")[0].Template.Spec
	for name, p := range map[string]corev1.PodSpec{"Job": pod, "PodTemplate": template} {
		if !p.HostNetwork || p.DNSPolicy != corev1.DNSDefault {
			t.Errorf("%s: hostNetwork %v, dnsPolicy %s", name, p.HostNetwork, p.DNSPolicy)
		}
		for _, c := range slices.Concat(p.InitContainers, p.Containers) {
			if len(c.Ports) > 0 {
				t.Errorf("%s/%s takes ports of the node: %v", name, c.Name, c.Ports)
			}
		}
	}
}
