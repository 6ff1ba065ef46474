// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"strings"
	"testing"

	authenticationv1 "k8s.io/api/authentication/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"
)

// agentClient speaks to the API server with a token like that of a node's agent: whoever took the node over has one.
func agentClient(t *testing.T, m *Mesh, node string) kubernetes.Interface {
	t.Helper()
	pod := m.Agent(t, node).Pods()[0]
	token, err := m.Client().CoreV1().ServiceAccounts(system).CreateToken(t.Context(), nodeName, &authenticationv1.TokenRequest{
		Spec: authenticationv1.TokenRequestSpec{BoundObjectRef: &authenticationv1.BoundObjectReference{
			APIVersion: "v1", Kind: "Pod", Name: pod.Name, UID: pod.UID,
		}},
	}, metav1.CreateOptions{})
	if err != nil {
		t.Fatal(err)
	}
	return tokenClient(t, m, token.Status.Token)
}

func tokenClient(t *testing.T, m *Mesh, token string) kubernetes.Interface {
	t.Helper()
	cfg := rest.AnonymousClientConfig(m.Config())
	cfg.BearerToken = token
	c, err := kubernetes.NewForConfig(cfg)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

// TestAgentTouchesOneAnnotation tries everything that RBAC's "patch pods" would allow.
func TestAgentTouchesOneAnnotation(t *testing.T) {
	m := Shared(t)
	ns := m.Namespace(t, "admission", Annotated("note", "not in the mesh"))
	nodes := m.Nodes()
	pods := ns.Deploy(App{Name: "here", Node: nodes[0]}, App{Name: "there", Node: nodes[1]})
	here, there := pods[0], pods[1]
	agent := agentClient(t, m, here.Node)
	const reported = `{"metadata":{"annotations":{"warren.dev/captured":"Tried"}}}`
	for _, tt := range []struct {
		name  string
		pod   *Pod
		patch string
		sub   string
		want  string // part of the refusal; "" is success
	}{
		{"its report on a pod of its node", here, reported, "", ""},
		{"takes it back", here, `{"metadata":{"annotations":{"warren.dev/captured":null}}}`, "", ""},
		{"a pod of another node", there, reported, "", "of its own node only"},
		{"out of the mesh", here, `{"metadata":{"annotations":{"warren.dev/mesh":"disabled"}}}`, "", "and no other"},
		{"exceptions", here, `{"metadata":{"annotations":{"warren.dev/except":"0.0.0.0/0","warren.dev/captured":"true"}}}`, "", "and no other"},
		{"another's annotation away", here, `{"metadata":{"annotations":{"mark":null}}}`, "", "and no other"},
		{"another's annotation changed", here, `{"metadata":{"annotations":{"mark":"x"}}}`, "", "and no other"},
		{"a label", here, `{"metadata":{"labels":{"app":"there"}}}`, "", "neither spec nor labels"},
		{"a finalizer", here, `{"metadata":{"finalizers":["warren.dev/stay"]}}`, "", "neither spec nor labels"},
		{"no owner", here, `{"metadata":{"ownerReferences":null}}`, "", "neither spec nor labels"},
		{"an image", here, `{"spec":{"containers":[{"name":"app","image":"example.com/evil:1"}]}}`, "", "neither spec nor labels"},
		{"an end", here, `{"spec":{"activeDeadlineSeconds":1}}`, "", "neither spec nor labels"},
		{"a status", here, `{"status":{"podIP":"10.0.0.1"}}`, "status", "pods/status"},
		{"a container", here, `{"spec":{"ephemeralContainers":[{"name":"x","image":"x"}]}}`, "ephemeralcontainers", "pods/ephemeralcontainers"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			if _, err := m.Client().CoreV1().Pods(tt.pod.Namespace).Patch(t.Context(), tt.pod.Name, types.MergePatchType,
				[]byte(`{"metadata":{"annotations":{"mark":"1"}}}`), metav1.PatchOptions{}); err != nil {
				t.Fatal(err)
			}
			kind := types.StrategicMergePatchType
			var subs []string
			if tt.sub != "" {
				subs = []string{tt.sub}
			}
			_, err := agent.CoreV1().Pods(tt.pod.Namespace).Patch(t.Context(), tt.pod.Name, kind, []byte(tt.patch), metav1.PatchOptions{}, subs...)
			switch {
			case tt.want == "" && err != nil:
				t.Errorf("refused: %v", err)
			case tt.want != "" && (err == nil || !strings.Contains(err.Error(), tt.want)):
				t.Errorf("got %v, want a refusal with %q", err, tt.want)
			}
		})
	}
	if err := agent.CoreV1().Pods(here.Namespace).Delete(t.Context(), here.Name, metav1.DeleteOptions{}); err == nil {
		t.Error("the agent deleted a pod")
	}
	if _, err := agent.CoreV1().Secrets(system).Get(t.Context(), "warren-ca", metav1.GetOptions{}); err == nil {
		t.Error("the agent read the authority's keys")
	}
}
