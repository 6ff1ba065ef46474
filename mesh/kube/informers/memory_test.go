// SPDX-License-Identifier: Apache-2.0

package informers

import (
	"fmt"
	"runtime"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/utils/ptr"

	"github.com/warren-mesh/warren/mesh"
	"github.com/warren-mesh/warren/mesh/kube"
)

// typical is a pod of ordinary size: about 5 KB on the wire.
func typical(i int) *corev1.Pod {
	uid := fmt.Sprintf("%08x-7a1b-4c2d-9e3f-0123456789ab", i)
	p := pod(fmt.Sprintf("cart-6f7d8c9b5-%05d", i), fmt.Sprintf("node-%03d", i%200), 1)
	p.UID = types.UID(uid)
	p.Labels = map[string]string{"app": "cart", "pod-template-hash": "6f7d8c9b5", "app.kubernetes.io/version": "1.4.2", "team": "checkout"}
	p.Status.PodIP = fmt.Sprintf("10.%d.%d.%d", 1+i>>16, i>>8&255, i&255)
	p.Status.PodIPs = []corev1.PodIP{{IP: p.Status.PodIP}, {IP: fmt.Sprintf("fd00::%x", i+1)}}
	p.ManagedFields[0].FieldsV1 = metav1.NewFieldsV1(`{"` + strings.Repeat("f:status/", 200) + `":{}}`)
	for c := range 2 {
		p.Spec.Containers = append(p.Spec.Containers, corev1.Container{
			Name: fmt.Sprint("c", c), Image: "registry.example/shop/cart@sha256:" + strings.Repeat("a", 64), Args: []string{strings.Repeat("--flag ", 40)},
			Env: []corev1.EnvVar{{Name: "CONFIG", Value: strings.Repeat("v", 300)}},
		})
	}
	p.Annotations["example.com/config-hash"] = strings.Repeat("h", 500)
	return p
}

// heap is what lives now, in bytes.
func heap() uint64 {
	runtime.GC()
	runtime.GC()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return m.HeapAlloc
}

// TestMemoryPerThousandPods bounds what a pod of somebody else's node costs an agent: the bytes that are kept, and
// all of it with the Translator's and the store's view, endpoints included.
func TestMemoryPerThousandPods(t *testing.T) {
	const pods, perSlice = 10000, 100
	s := New(nil, Config{Objects: kube.Config{Node: "node-000"}})
	before := heap()
	wire := 0
	for i := range pods {
		p := typical(i)
		wire += p.Size()
		if err := s.board.kind("Pod").Update(p); err != nil {
			t.Fatal(err)
		}
	}
	kept := heap()
	for j := 0; j < pods; j += perSlice {
		e := &discoveryv1.EndpointSlice{
			ObjectMeta:  metav1.ObjectMeta{Namespace: "shop", Name: fmt.Sprint("cart-", j), Labels: map[string]string{discoveryv1.LabelServiceName: fmt.Sprint("cart-", j/1000)}},
			AddressType: discoveryv1.AddressTypeIPv4, Ports: []discoveryv1.EndpointPort{{Name: ptr.To("http"), Port: ptr.To(int32(8080))}},
		}
		for i := j; i < j+perSlice; i++ {
			p := typical(i)
			e.Endpoints = append(e.Endpoints, discoveryv1.Endpoint{
				Addresses: []string{p.Status.PodIP}, NodeName: ptr.To(p.Spec.NodeName), Zone: ptr.To("z"), Conditions: discoveryv1.EndpointConditions{Ready: ptr.To(true)},
				TargetRef: &corev1.ObjectReference{Kind: "Pod", Namespace: "shop", Name: p.Name, UID: p.UID},
			})
		}
		if err := s.board.kind("EndpointSlice").Update(e); err != nil {
			t.Fatal(err)
		}
	}
	for i := range pods / 1000 {
		if err := s.board.kind("Service").Update(&corev1.Service{
			ObjectMeta: metav1.ObjectMeta{Namespace: "shop", Name: fmt.Sprint("cart-", i)},
			Spec:       corev1.ServiceSpec{ClusterIP: fmt.Sprintf("10.200.0.%d", i+1), Ports: []corev1.ServicePort{{Name: "http", Port: 80}}},
		}); err != nil {
			t.Fatal(err)
		}
	}
	s.board.mu.Lock()
	for _, c := range s.board.kinds {
		c.synced = true
	}
	s.board.arrived()
	s.board.mu.Unlock()
	s.step()
	all := heap()
	if n := len(s.Store().Snapshot().Endpoints(mesh.Name{Namespace: "shop", Name: "cart-0"})); n != 1000 {
		t.Fatalf("%d endpoints, want 1000; problems: %v", n, s.Problems())
	}
	perThousand := func(b uint64) float64 { return float64(b) / pods * 1000 / 1024 }
	t.Logf("per 1,000 pods: %.0f KiB on the wire, %.0f KiB kept, %.0f KiB with Translator and store",
		perThousand(uint64(wire)), perThousand(kept-before), perThousand(all-before))
	if got := perThousand(kept - before); got > 800 {
		t.Errorf("%.0f KiB kept per 1,000 pods", got)
	}
	if got := perThousand(all - before); got > 5120 {
		t.Errorf("%.0f KiB per 1,000 pods", got)
	}
	start := time.Now()
	contents, _ := s.board.contents()
	file := len(marshal(contents, time.Now()))
	t.Logf("the snapshot has %d bytes and took %v", file, time.Since(start))
	runtime.KeepAlive(s)
}
