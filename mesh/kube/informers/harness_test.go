// SPDX-License-Identifier: Apache-2.0

package informers

import (
	"bytes"
	"context"
	"fmt"
	"log/slog"
	"sync"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	networkingv1 "k8s.io/api/networking/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/intstr"
	"k8s.io/utils/ptr"

	"github.com/warren-mesh/warren/mesh"
	"github.com/warren-mesh/warren/mesh/kube"
	"github.com/warren-mesh/warren/mesh/kube/apiserver"
	"github.com/warren-mesh/warren/tests/kubeapi"
)

const (
	authz    = "security.istio.io/v1/authorizationpolicies"
	peerAuth = "security.istio.io/v1/peerauthentications"
)

// running is a source that follows a server.
type running struct {
	*Source
	log  *logBuffer
	stop func()
}

func follow(t *testing.T, s *kubeapi.Server, change ...func(*Config)) *running {
	t.Helper()
	r := &running{log: &logBuffer{}}
	r.start(t, s, change...)
	return r
}

// start follows any server.
func (r *running) start(t *testing.T, s interface{ Client() *apiserver.Client }, change ...func(*Config)) {
	t.Helper()
	cfg := Config{Objects: kube.Config{Node: "a"}, Patience: time.Minute, Log: slog.New(slog.NewTextHandler(r.log, nil))}
	for _, c := range change {
		c(&cfg)
	}
	r.Source = New(s.Client(), cfg)
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- r.Run(ctx) }()
	r.stop = sync.OnceFunc(func() {
		cancel()
		select {
		case err := <-done:
			if err != nil {
				t.Errorf("run: %v", err)
			}
		case <-time.After(10 * time.Second):
			t.Error("the source does not end")
		}
	})
	t.Cleanup(r.stop)
}

func (r *running) synced(t *testing.T) {
	t.Helper()
	select {
	case <-r.Synced():
	case <-time.After(10 * time.Second):
		t.Fatalf("not synced: %+v\n%s", r.Status(), r.log)
	}
}

func (r *running) wait(t *testing.T, what string, done func(*mesh.Snapshot) bool) *mesh.Snapshot {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	snap, err := r.Store().Wait(ctx, done)
	if err != nil {
		t.Fatalf("never happened: %s\n%s", what, r.log)
	}
	return snap
}

func eventually(t *testing.T, what string, done func() bool) {
	t.Helper()
	for deadline := time.Now().Add(10 * time.Second); !done(); time.Sleep(2 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("never happened: %s", what)
		}
	}
}

// world is a small cluster: a namespace in the mesh, two nodes, a service with two pods.
func world(s *kubeapi.Server) {
	s.Put("v1/namespaces", &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: "shop", Labels: map[string]string{kube.KeyMesh: "enabled"}}})
	for i, n := range []string{"a", "b"} {
		s.Put("v1/nodes", &corev1.Node{
			ObjectMeta: metav1.ObjectMeta{Name: n, Labels: map[string]string{corev1.LabelTopologyZone: "z" + n}},
			Spec:       corev1.NodeSpec{PodCIDRs: []string{fmt.Sprintf("10.1.%d.0/24", i), fmt.Sprintf("fd00:1:%d::/64", i)}},
		})
	}
	s.Put("networking.k8s.io/v1/servicecidrs", &networkingv1.ServiceCIDR{ObjectMeta: metav1.ObjectMeta{Name: "kubernetes"}, Spec: networkingv1.ServiceCIDRSpec{CIDRs: []string{"10.2.0.0/16"}}})
	s.Put("v1/services", &corev1.Service{
		ObjectMeta: metav1.ObjectMeta{Namespace: "shop", Name: "cart"},
		Spec: corev1.ServiceSpec{ClusterIP: "10.2.0.1", ClusterIPs: []string{"10.2.0.1", "fd00:2::1"}, Selector: map[string]string{"app": "cart"},
			Ports: []corev1.ServicePort{{Name: "http", Port: 80, TargetPort: intstr.FromInt32(8080)}}},
	})
	s.Put("v1/pods", pod("cart-1", "a", 11))
	s.Put("v1/pods", pod("cart-2", "b", 12))
	s.Put("discovery.k8s.io/v1/endpointslices", endpoints("cart-1", "cart-2"))
}

func pod(name, node string, last int) *corev1.Pod {
	return &corev1.Pod{
		TypeMeta: metav1.TypeMeta{Kind: "Pod", APIVersion: "v1"},
		ObjectMeta: metav1.ObjectMeta{
			Namespace: "shop", Name: name, UID: types.UID("uid-" + name), Labels: map[string]string{"app": "cart"},
			Annotations:     map[string]string{"deployment.kubernetes.io/revision": "7"},
			OwnerReferences: []metav1.OwnerReference{{APIVersion: "apps/v1", Kind: "ReplicaSet", Name: "cart-abc", UID: "rs", Controller: ptr.To(true)}},
			ManagedFields:   []metav1.ManagedFieldsEntry{{Manager: "kubelet", Operation: "Update", FieldsV1: metav1.NewFieldsV1(`{"f:status":{}}`)}},
		},
		Spec: corev1.PodSpec{
			NodeName: node, ServiceAccountName: "cart",
			Containers: []corev1.Container{{Name: "cart", Image: "registry.example/cart:1", Env: []corev1.EnvVar{{Name: "A", Value: "b"}}}},
		},
		Status: corev1.PodStatus{
			Phase: corev1.PodRunning, PodIP: fmt.Sprintf("10.1.0.%d", last),
			PodIPs:     []corev1.PodIP{{IP: fmt.Sprintf("10.1.0.%d", last)}, {IP: fmt.Sprintf("fd00:1::%d", last)}},
			Conditions: []corev1.PodCondition{{Type: corev1.PodReady, Status: corev1.ConditionTrue}, {Type: corev1.PodScheduled, Status: corev1.ConditionTrue}},
		},
	}
}

func endpoints(pods ...string) *discoveryv1.EndpointSlice {
	s := &discoveryv1.EndpointSlice{
		ObjectMeta:  metav1.ObjectMeta{Namespace: "shop", Name: "cart-x", Labels: map[string]string{discoveryv1.LabelServiceName: "cart"}},
		AddressType: discoveryv1.AddressTypeIPv4,
		Ports:       []discoveryv1.EndpointPort{{Name: ptr.To("http"), Port: ptr.To(int32(8080)), Protocol: ptr.To(corev1.ProtocolTCP)}},
	}
	for i, p := range pods {
		s.Endpoints = append(s.Endpoints, discoveryv1.Endpoint{
			Addresses: []string{fmt.Sprintf("10.1.0.%d", 11+i)}, Conditions: discoveryv1.EndpointConditions{Ready: ptr.To(true)},
			TargetRef: &corev1.ObjectReference{Kind: "Pod", Namespace: "shop", Name: p, UID: types.UID("uid-" + p)},
		})
	}
	return s
}

func installPolicies(s *kubeapi.Server) {
	s.Install(authz, "AuthorizationPolicy")
	s.Install(peerAuth, "PeerAuthentication")
}

// deny is an AuthorizationPolicy as JSON has it; a source that is not made of fields Istio knows is refused.
func deny(name string, source map[string]any) map[string]any {
	return map[string]any{
		"metadata": map[string]any{"namespace": "shop", "name": name},
		"spec":     map[string]any{"action": "DENY", "rules": []any{map[string]any{"from": []any{map[string]any{"source": source}}}}},
	}
}

func hasPolicy(name string) func(*mesh.Snapshot) bool {
	return func(s *mesh.Snapshot) bool { return s.Policy(mesh.Name{Namespace: "shop", Name: name}) != nil }
}

// logBuffer collects log lines of several goroutines.
type logBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (l *logBuffer) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(p)
}

func (l *logBuffer) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.String()
}
