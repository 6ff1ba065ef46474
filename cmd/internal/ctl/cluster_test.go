// SPDX-License-Identifier: Apache-2.0

package ctl

import (
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"

	admissionv1 "k8s.io/api/admissionregistration/v1"
	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/streaming/pkg/httpstream"
	"k8s.io/streaming/pkg/httpstream/spdy"

	"github.com/warren-mesh/warren/cmd/internal/cluster"
	"github.com/warren-mesh/warren/mesh/kube"
	"github.com/warren-mesh/warren/tests/kubeapi"
)

// inCluster is a mesh of two nodes behind an API server. All agents answer as the world's does.
type inCluster struct {
	*world
	*kubeapi.Server
	kubeconfig string

	mu    sync.Mutex
	asked []string // pod:port of each forward
	ports map[string]string
	away  string // pod whose ports nobody listens at
	may   func(verb, resource string) bool
}

const system = "warren-system"

func newCluster(t *testing.T) *inCluster {
	ready := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		http.Error(w, "not ready, pending: trust bundle", http.StatusInternalServerError)
	}))
	t.Cleanup(ready.Close)
	c := &inCluster{world: newWorld(t), Server: kubeapi.Start(t), may: func(string, string) bool { return true }}
	c.ports = map[string]string{"15000": strings.TrimPrefix(c.agent, "http://"), "15021": strings.TrimPrefix(ready.URL, "http://")}
	for resource, kind := range map[string]string{"apps/v1/daemonsets": "DaemonSet", "apps/v1/deployments": "Deployment",
		policies: "ValidatingAdmissionPolicy", bindings: "ValidatingAdmissionPolicyBinding"} {
		c.Install(resource, kind)
	}
	c.Handle("portforward", c.forward)
	c.Handle("subjectaccessreviews", func(w http.ResponseWriter, r *http.Request) {
		var review map[string]any
		_ = json.NewDecoder(r.Body).Decode(&review)
		asked := review["spec"].(map[string]any)["resourceAttributes"].(map[string]any)
		review["status"] = map[string]any{"allowed": c.may(fmt.Sprint(asked["verb"]), fmt.Sprint(asked["resource"]))}
		w.Header().Set("Content-Type", "application/json")
		_ = json.NewEncoder(w).Encode(review)
	})
	c.Handle("/version", func(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, `{"gitVersion":"v1.37.2"}`) })
	c.Handle("/apis/warren.dev/v1alpha1", func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "application/json")
		_, _ = io.WriteString(w, `{"kind":"APIResourceList","apiVersion":"v1","groupVersion":"warren.dev/v1alpha1","resources":[{"name":"meshconfigs"}]}`)
	})
	for _, n := range []string{"a", "b"} {
		c.Put("v1/nodes", &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: n}, Status: corev1.NodeStatus{NodeInfo: corev1.NodeSystemInfo{KernelVersion: "6.18.1-x", OperatingSystem: "linux"}}})
		c.part(cluster.NodePart, n, true)
		c.part(cluster.ZtunnelPart, n, true)
		c.Put("v1/namespaces", &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: map[string]string{"a": "shop", "b": "other"}[n]}})
	}
	c.part(cluster.ControlPart, "a", true)
	template := corev1.PodTemplateSpec{Spec: corev1.PodSpec{Containers: []corev1.Container{{Image: "r.example/warren:v7"}}}}
	for _, n := range []string{cluster.NodePart, cluster.ZtunnelPart} {
		c.Put("apps/v1/daemonsets", &appsv1.DaemonSet{ObjectMeta: metav1.ObjectMeta{Namespace: system, Name: n}, Spec: appsv1.DaemonSetSpec{Template: template},
			Status: appsv1.DaemonSetStatus{DesiredNumberScheduled: 2, NumberReady: 2, UpdatedNumberScheduled: 2}})
	}
	c.Put("apps/v1/deployments", &appsv1.Deployment{ObjectMeta: metav1.ObjectMeta{Namespace: system, Name: cluster.ControlPart}, Spec: appsv1.DeploymentSpec{Template: template},
		Status: appsv1.DeploymentStatus{ReadyReplicas: 1, UpdatedReplicas: 1}})
	c.admission(func(*admissionv1.ValidatingAdmissionPolicy, *admissionv1.ValidatingAdmissionPolicyBinding) {})
	c.kubeconfig = filepath.Join(t.TempDir(), "config")
	if err := os.WriteFile(c.kubeconfig, fmt.Appendf(nil, `{apiVersion: v1, kind: Config, current-context: x, contexts: [{name: x, context: {cluster: x, user: x}}],
		clusters: [{name: x, cluster: {server: %q}}], users: [{name: x}]}`, c.Rest().Host), 0o600); err != nil {
		t.Fatal(err)
	}
	return c
}

const policies, bindings = "admissionregistration.k8s.io/v1/validatingadmissionpolicies", "admissionregistration.k8s.io/v1/validatingadmissionpolicybindings"

// admission puts the policy and binding that the chart brings, changed.
func (c *inCluster) admission(change func(*admissionv1.ValidatingAdmissionPolicy, *admissionv1.ValidatingAdmissionPolicyBinding)) {
	fail := admissionv1.Fail
	p := &admissionv1.ValidatingAdmissionPolicy{ObjectMeta: metav1.ObjectMeta{Name: cluster.NodePart}, Spec: admissionv1.ValidatingAdmissionPolicySpec{
		FailurePolicy: &fail,
		MatchConstraints: &admissionv1.MatchResources{ResourceRules: []admissionv1.NamedRuleWithOperations{{RuleWithOperations: admissionv1.RuleWithOperations{
			Operations: []admissionv1.OperationType{admissionv1.Create, admissionv1.Update, admissionv1.Delete},
			Rule:       admissionv1.Rule{APIGroups: []string{""}, APIVersions: []string{"v1"}, Resources: []string{"pods", "pods/*"}},
		}}}},
		MatchConditions: []admissionv1.MatchCondition{{Name: "the-agent", Expression: `request.userInfo.username == "system:serviceaccount:warren-system:warren-node"`}},
		Validations:     []admissionv1.Validation{{Expression: "true"}},
	}}
	b := &admissionv1.ValidatingAdmissionPolicyBinding{ObjectMeta: metav1.ObjectMeta{Name: cluster.NodePart}, Spec: admissionv1.ValidatingAdmissionPolicyBindingSpec{
		PolicyName: cluster.NodePart, ValidationActions: []admissionv1.ValidationAction{admissionv1.Deny},
		MatchResources: &admissionv1.MatchResources{NamespaceSelector: &metav1.LabelSelector{}},
	}}
	change(p, b)
	c.Put(policies, p)
	c.Put(bindings, b)
}

func (c *inCluster) part(name, node string, ready bool) {
	p := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: system, Name: name + "-" + node, Labels: map[string]string{"app.kubernetes.io/name": name}},
		Spec: corev1.PodSpec{NodeName: node, Containers: []corev1.Container{{Image: "r.example/warren:v7"}}}}
	if ready {
		p.Status.Conditions = []corev1.PodCondition{{Type: corev1.PodReady, Status: corev1.ConditionTrue}}
	}
	c.Put("v1/pods", p)
}

// forward is a kubelet's, without websockets.
func (c *inCluster) forward(w http.ResponseWriter, r *http.Request) {
	pod := strings.Split(r.URL.Path, "/")[6]
	if _, err := httpstream.Handshake(r, w, []string{"portforward.k8s.io"}); err != nil {
		return
	}
	streams := make(chan httpstream.Stream, 16)
	conn := spdy.NewResponseUpgrader().UpgradeResponse(w, r, func(s httpstream.Stream, _ <-chan struct{}) error {
		streams <- s
		return nil
	})
	if conn == nil {
		return
	}
	defer conn.Close()
	complaints := map[string]httpstream.Stream{}
	for {
		select {
		case <-conn.CloseChan():
			return
		case s := <-streams:
			port, id := s.Headers().Get(corev1.PortHeader), s.Headers().Get(corev1.PortForwardRequestIDHeader)
			if s.Headers().Get(corev1.StreamType) == corev1.StreamTypeError {
				complaints[id] = s
				continue
			}
			c.mu.Lock()
			c.asked = append(c.asked, pod+":"+port)
			if pod == c.away {
				port = "nobody's"
			}
			c.mu.Unlock()
			go c.pipe(s, complaints[id], port)
		}
	}
}

func (c *inCluster) pipe(s, complaints httpstream.Stream, port string) {
	to, err := net.Dial("tcp", c.ports[port])
	if err != nil {
		fmt.Fprintf(complaints, "dial port %s: %v", port, err)
	} else {
		go func() { _, _ = io.Copy(to, s); _ = to.(*net.TCPConn).CloseWrite() }()
		_, _ = io.Copy(s, to)
	}
	_ = complaints.Close()
	_ = s.Close()
}

func (c *inCluster) command(t *testing.T, args ...string) (string, error) {
	t.Helper()
	c.mu.Lock()
	c.asked = nil
	c.mu.Unlock()
	return command(t, append(args, "--kubeconfig", c.kubeconfig)...)
}

func (c *inCluster) shopPod(name, node, captured string, edits ...func(*corev1.Pod)) {
	p := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: "shop", Name: name, UID: "uid-client", Annotations: map[string]string{kube.KeyCaptured: captured}},
		Spec: corev1.PodSpec{NodeName: node}, Status: corev1.PodStatus{Phase: corev1.PodRunning, PodIPs: []corev1.PodIP{{IP: "10.1.0.1"}}}}
	for _, e := range edits {
		e(p)
	}
	c.Put("v1/pods", p)
}

// The pod that is asked about says which node is asked; every node is, where each knows its own.
func TestClusterAsksTheRightNode(t *testing.T) {
	c := newCluster(t)
	c.shopPod("another", "a", "true", func(p *corev1.Pod) { p.UID, p.Status.PodIPs = "uid-another", []corev1.PodIP{{IP: "10.1.0.9"}} })
	c.shopPod("client", "b", "true")
	for _, tt := range []struct {
		args []string
		want string   // in the output
		at   []string // forwards
	}{
		{[]string{"explain", "shop/client", "web:80"}, "shop/client on a -> web:80: refused, POLICY_NO_ALLOW", []string{"warren-node-b:15000"}},
		{[]string{"explain", "client", "web:80", "-n", "shop"}, "shop/client", []string{"warren-node-b:15000"}},
		{[]string{"explain", "10.1.0.1", "web.shop:80"}, "refused", []string{"warren-node-b:15000"}},
		{[]string{"explain", "uid-client", "web:80"}, "refused", []string{"warren-node-b:15000"}},
		{[]string{"explain", "192.0.2.1", "pod/shop/client:80"}, "192.0.2.1", []string{"warren-node-b:15000"}},
		{[]string{"explain", "192.0.2.1", "web.shop:80"}, "192.0.2.1", []string{"warren-node-a:15000"}},
		{[]string{"workloads", "-n", "shop"}, "captured", []string{"warren-node-a:15000"}},
		{[]string{"workloads", "--on", "b"}, "captured", []string{"warren-node-b:15000"}},
		{[]string{"certificates"}, "spiffe://cluster.local/ns/shop/sa/client", []string{"warren-node-a:15000", "warren-node-b:15000"}},
		{[]string{"connections"}, "shop/client", []string{"warren-node-a:15000", "warren-node-b:15000"}},
		{[]string{"__complete", "explain", "shop/client", ""}, "shop/web:80", []string{"warren-node-a:15000"}},
		{[]string{"__complete", "enrol", ""}, "other\nshop\n", nil},
	} {
		args := append(tt.args[:len(tt.args):len(tt.args)], "--kubeconfig", c.kubeconfig)
		if tt.args[0] == "__complete" {
			args = append([]string{"__complete", "--kubeconfig", c.kubeconfig}, tt.args[1:]...)
		}
		c.mu.Lock()
		c.asked = nil
		c.mu.Unlock()
		out, err := command(t, args...)
		asked := map[string]bool{}
		c.mu.Lock()
		for _, a := range c.asked {
			asked[a] = true
		}
		c.mu.Unlock()
		if err != nil || !strings.Contains(out, tt.want) {
			t.Errorf("%v: %v\n%s", tt.args, err, out)
		}
		for _, at := range tt.at {
			if !asked[at] {
				t.Errorf("%v: %s is not asked", tt.args, at)
			}
			delete(asked, at)
		}
		if len(asked) > 0 {
			t.Errorf("%v: asked as well: %v", tt.args, asked)
		}
	}
	c.part(cluster.NodePart, "b", false)
	if out, err := c.command(t, "explain", "shop/client", "web:80"); err != nil {
		t.Errorf("the pod's node has no agent that is ready, another is asked: %v\n%s", err, out)
	}
	if _, err := c.command(t, "workloads", "--on", "b"); err == nil || !strings.Contains(err.Error(), "no agent is ready on node b") {
		t.Error(err)
	}
	c.ports["15000"] = "127.0.0.1:1"
	if _, err := c.command(t, "workloads"); err == nil || !strings.Contains(err.Error(), "node a: ") || !strings.Contains(err.Error(), "connection refused") {
		t.Errorf("what the other side complains of: %v", err)
	}
}

// TestClusterTop asks all nodes, shows what those have that answer, and names the others.
func TestClusterTop(t *testing.T) {
	c := newCluster(t)
	c.part(cluster.NodePart, "c", false)
	c.ports["nobody's"] = "127.0.0.1:1"
	c.away = "warren-node-b"
	const head, row = "NODE POD PEER DIRECTION OPEN SENT B/S RECEIVED B/S OPENED/S FAILED/S", " shop/client (all) - 1 300 0 0 0"
	top := func(args ...string) (string, string) {
		t.Helper()
		out, err := c.command(t, append([]string{"top"}, args...)...)
		return strings.Join(strings.Fields(out), " "), fmt.Sprint(err)
	}
	out, err := top()
	if !strings.Contains(out, "over about the last 10 s "+head+" a"+row+" a shop/client web.shop.svc.cluster.local outbound - 300 0 0 0") || strings.Contains(out, "b"+row) {
		t.Errorf("the node that answers: %s", out)
	}
	if !strings.Contains(err, "node b: ") || !strings.Contains(err, "connection refused") || !strings.Contains(err, "node c: no agent is ready") || strings.Contains(err, "node a") {
		t.Errorf("the nodes that do not: %s", err)
	}
	c.away = ""
	c.part(cluster.NodePart, "c", true)
	if out, err := top(); err != "<nil>" || strings.Count(out, row) != 3 || !strings.Contains(out, " c"+row) {
		t.Errorf("all: %s %s", err, out)
	}
	if out, err := top("--limit", "2"); err != "<nil>" || strings.Count(out, row) != 2 {
		t.Errorf("two pods: %s %s", err, out)
	}
	for _, flag := range []string{"--node", "--on"} {
		if out, err := top(flag, "b"); err != "<nil>" || strings.Count(out, row) != 1 || !strings.Contains(out, " b"+row) || slices.Contains(c.asked, "warren-node-a:15000") {
			t.Errorf("%s b: %s %s, asked %v", flag, err, out, c.asked)
		}
	}
	if out, err := top("-o", "json"); err != "<nil>" || strings.Count(out, `"node":`) != 3 || strings.Count(out, `"seconds": 10`) != 3 {
		t.Errorf("JSON: %s %s", err, out)
	}
}

func TestClusterStatusAndCheck(t *testing.T) {
	c := newCluster(t)
	c.shopPod("client", "b", "true")
	out, err := c.command(t, "status")
	flat := strings.Join(strings.Fields(out), " ")
	if err != nil {
		t.Errorf("%v\n%s", err, out)
	}
	for _, want := range []string{"NODE PART VERSION STATE DETAIL", "a agent v7 ok", "b broker v7 ok", "b ztunnel v7 ok", "first certificate expires at", "a control v7 ok"} {
		if !strings.Contains(flat, want) {
			t.Errorf("status lacks %q:\n%s", want, out)
		}
	}
	if out, err := c.command(t, "check"); err != nil || !strings.Contains(out, "v1.37.2") || !strings.Contains(out, "nobody can demand mutual TLS") {
		t.Errorf("%v\n%s", err, out)
	}

	// Each thing that is wrong is named, and fails the check.
	c.Put("v1/namespaces", &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: "shop", Labels: map[string]string{kube.KeyMesh: "enabled"}}})
	c.shopPod("late", "b", "Pending")
	c.shopPod("mute", "b", "", func(p *corev1.Pod) { p.Annotations = nil })
	c.shopPod("host", "b", "", func(p *corev1.Pod) { p.Annotations, p.Spec.HostNetwork = nil, true })
	c.part(cluster.ZtunnelPart, "b", false)
	c.Put("v1/nodes", &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: "old"}, Status: corev1.NodeStatus{NodeInfo: corev1.NodeSystemInfo{KernelVersion: "5.15.0", OperatingSystem: "linux"}}})
	c.may = func(verb, resource string) bool { return verb+resource != "patchpods" }
	c.Handle("/apis/warren.dev/v1alpha1", http.NotFound)
	out, err = c.command(t, "check")
	flat = strings.Join(strings.Fields(out), " ")
	if err == nil {
		t.Error("nothing has failed")
	}
	for _, want := range []string{
		"pod shop/late failed Pending", "pod shop/mute failed its node reports nothing of it: it is Running on b", "pod shop/host warning outside the mesh by itself: HostNetwork",
		"kernels failed Linux 6.6 is needed: old has 5.15.0", "warren-node may not patch pods", "meshconfigs.warren.dev/v1alpha1 failed",
		"b: warren-ztunnel failed attention: pod warren-ztunnel-b is not ready, pending: trust bundle", "old: agent failed no answer: no pod of the DaemonSet warren-node is on this node",
		"1 captured, 3 not, in 1 namespaces",
	} {
		if !strings.Contains(flat, want) {
			t.Errorf("check lacks %q:\n%s", want, out)
		}
	}
	for _, format := range []string{"json", "yaml"} {
		if out, _ := c.command(t, "check", "-o", format); !strings.Contains(out, "shop/late") {
			t.Errorf("%s: %s", format, out)
		}
	}
}

// TestCheckOfTheAdmissionPolicy: what keeps an agent from other nodes' pods must be there, and in force.
func TestCheckOfTheAdmissionPolicy(t *testing.T) {
	type policy = admissionv1.ValidatingAdmissionPolicy
	type binding = admissionv1.ValidatingAdmissionPolicyBinding
	const ofPolicy, ofBinding = "ValidatingAdmissionPolicy warren-node failed ", "ValidatingAdmissionPolicyBinding warren-node failed "
	c := newCluster(t)
	c.shopPod("client", "b", "true")
	check := func(what, want string) {
		t.Helper()
		out, err := c.command(t, "check")
		flat := strings.Join(strings.Fields(out), " ")
		if failed := want != ""; (err != nil) != failed || failed && (!strings.Contains(flat, want) || !strings.Contains(flat, "helm upgrade")) {
			t.Errorf("%s: %v, want %q in\n%s", what, err, want, out)
		}
	}
	check("as the chart has it", "")
	ignore := admissionv1.Ignore
	for want, change := range map[string]func(*policy, *binding){
		ofPolicy + "failurePolicy is Ignore, not Fail": func(p *policy, _ *binding) { p.Spec.FailurePolicy = &ignore },
		ofPolicy + "it validates nothing":              func(p *policy, _ *binding) { p.Spec.Validations = nil },
		ofPolicy + "it is not about system:serviceaccount:warren-system:warren-node": func(p *policy, _ *binding) {
			p.Spec.MatchConditions[0].Expression = `request.userInfo.username == "system:serviceaccount:other:warren-node"`
		},
		ofPolicy + "matchConstraints leave pods out": func(p *policy, _ *binding) {
			p.Spec.MatchConstraints.NamespaceSelector = &metav1.LabelSelector{MatchLabels: map[string]string{"a": "b"}}
		},
		ofPolicy + "matchConstraints leave pods out:": func(p *policy, _ *binding) {
			p.Spec.MatchConstraints.ResourceRules[0].Operations = []admissionv1.OperationType{admissionv1.Create}
		},
		ofBinding + "it binds other, not warren-node": func(_ *policy, b *binding) { b.Spec.PolicyName = "other" },
		ofBinding + "validationActions are [Audit], without Deny": func(_ *policy, b *binding) {
			b.Spec.ValidationActions = []admissionv1.ValidationAction{admissionv1.Audit}
		},
		ofBinding + "matchResources leave pods out": func(_ *policy, b *binding) {
			b.Spec.MatchResources = &admissionv1.MatchResources{NamespaceSelector: &metav1.LabelSelector{MatchLabels: map[string]string{"a": "b"}}}
		},
	} {
		c.admission(change)
		check(want, want)
	}
	c.admission(func(*policy, *binding) {})
	c.Delete(bindings, "", cluster.NodePart)
	check("no binding", ofBinding+"it is not there")
	c.admission(func(*policy, *binding) {})
	c.Delete(policies, "", cluster.NodePart)
	check("no policy", ofPolicy+"it is not there")
	c.Uninstall(policies)
	c.Uninstall(bindings)
	check("an API server without the kind", ofBinding+"it is not there")
}

func TestEnrol(t *testing.T) {
	c := newCluster(t)
	label := func() string {
		labels, _ := c.Get("v1/namespaces", "", "shop")["metadata"].(map[string]any)["labels"].(map[string]any)
		v, _ := labels[kube.KeyMesh].(string)
		return v
	}
	for _, tt := range []struct{ args, out, label string }{
		{"enrol shop", "namespace shop: label warren.dev/mesh enabled\n", "enabled"},
		{"unenrol shop", "namespace shop: label warren.dev/mesh removed\n", ""},
	} {
		if out, err := c.command(t, strings.Fields(tt.args)...); err != nil || out != tt.out || label() != tt.label {
			t.Errorf("%s: %v, %q, label %q", tt.args, err, out, label())
		}
	}
	c.Put("v1/namespaces", &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: "shop", Labels: map[string]string{kube.KeyDataplaneMode: "ambient"}}})
	if out, err := c.command(t, "unenrol", "shop"); err != nil || label() != "disabled" {
		t.Errorf("in the mesh by another label: %v, %q, label %q", err, out, label())
	}
	for args, want := range map[string]string{"enrol nowhere": "not found", "enrol kube-system": "never captured", "enrol": "accepts 1 arg"} {
		if _, err := c.command(t, strings.Fields(args)...); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v", args, err)
		}
	}
}

func TestNoCluster(t *testing.T) {
	t.Setenv("KUBECONFIG", filepath.Join(t.TempDir(), "none"))
	t.Setenv("HOME", t.TempDir())
	_, err := command(t, "workloads", "--run-dir", "/nonexistent/warren")
	if err == nil || !strings.Contains(err.Error(), "no node of the mesh") {
		t.Error(err)
	}
	_, err = command(t, "workloads", "--kubeconfig", "/nonexistent/config")
	if err == nil || !strings.Contains(err.Error(), "/nonexistent/config") {
		t.Error(err)
	}
}
