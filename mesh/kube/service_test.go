// SPDX-License-Identifier: Apache-2.0

package kube

import (
	"net/netip"
	"testing"

	"github.com/google/go-cmp/cmp"
	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/intstr"

	"github.com/warren-mesh/warren/mesh"
)

var web = mesh.Name{Namespace: "shop", Name: "web"}

// webService has a numeric, a named and a UDP port.
func webService(edits ...func(*corev1.Service)) *corev1.Service {
	s := &corev1.Service{
		ObjectMeta: metav1.ObjectMeta{Namespace: "shop", Name: "web"},
		Spec: corev1.ServiceSpec{
			ClusterIP: "10.96.0.7", ClusterIPs: []string{"10.96.0.7", "fd96::7"},
			Ports: []corev1.ServicePort{
				{Name: "http", Port: 80, TargetPort: intstr.FromString("web")},
				{Name: "admin", Port: 81, TargetPort: intstr.FromInt32(9000), Protocol: corev1.ProtocolTCP},
				{Name: "dns", Port: 53, Protocol: corev1.ProtocolUDP},
				{Name: "same", Port: 82},
			},
		},
	}
	for _, e := range edits {
		e(s)
	}
	return s
}

func notReadyToo(s *corev1.Service) { s.Spec.PublishNotReadyAddresses = true }

func ptr[T any](v T) *T { return &v }

// webSlice has one endpoint, the pod web by reference.
func webSlice(edits ...func(*discoveryv1.EndpointSlice)) *discoveryv1.EndpointSlice {
	s := &discoveryv1.EndpointSlice{
		ObjectMeta:  metav1.ObjectMeta{Namespace: "shop", Name: "web-1", Labels: map[string]string{discoveryv1.LabelServiceName: "web"}},
		AddressType: discoveryv1.AddressTypeIPv4,
		Ports: []discoveryv1.EndpointPort{
			{Name: ptr("http"), Port: ptr(int32(8080))},
			{Name: ptr("admin"), Port: ptr(int32(9000)), Protocol: ptr(corev1.ProtocolTCP)},
			{Name: ptr("dns"), Port: ptr(int32(5353)), Protocol: ptr(corev1.ProtocolUDP)},
		},
		Endpoints: []discoveryv1.Endpoint{{
			Addresses: []string{"10.0.0.5"},
			TargetRef: &corev1.ObjectReference{Kind: "Pod", Name: "web", UID: "u1"},
		}},
	}
	for _, e := range edits {
		e(s)
	}
	return s
}

func epReady(v bool) func(*discoveryv1.EndpointSlice) {
	return func(s *discoveryv1.EndpointSlice) { s.Endpoints[0].Conditions.Ready = &v }
}
func address(a string) func(*discoveryv1.EndpointSlice) {
	return func(s *discoveryv1.EndpointSlice) {
		s.Endpoints[0].Addresses, s.Endpoints[0].TargetRef = []string{a}, nil
		if netip.MustParseAddr(a).Is6() {
			s.AddressType = discoveryv1.AddressTypeIPv6
		}
	}
}

func TestService(t *testing.T) {
	w := newWorld(t, webService())
	s := w.store.Snapshot()
	got := s.ServiceByAddr(netip.MustParseAddr("fd96::7"))
	want := &mesh.Service{
		Namespace: "shop", Name: "web", Hostname: "web.shop.svc.cluster.local",
		Addresses: []netip.Addr{netip.MustParseAddr("10.96.0.7"), netip.MustParseAddr("fd96::7")},
		Ports: []mesh.ServicePort{
			{Name: "http", Port: 80}, {Name: "admin", Port: 81, TargetPort: 9000}, {Name: "same", Port: 82, TargetPort: 82}},
	}
	if diff := cmp.Diff(want, got, cmp.Comparer(func(a, b netip.Addr) bool { return a == b })); diff != "" {
		t.Errorf("(-want +got)\n%s", diff)
	}
	w.put(webService(func(s *corev1.Service) { s.Spec.ClusterIP, s.Spec.ClusterIPs = "None", []string{"None"} }))
	if s := w.store.Snapshot(); s.ServiceByHostname(want.Hostname) == nil || len(s.Service(web).Addresses) > 0 || s.ServiceByAddr(want.Addresses[0]) != nil {
		t.Errorf("headless: got %+v", s.Service(web))
	}
	w.put(webService(func(s *corev1.Service) { s.Spec.Type = corev1.ServiceTypeExternalName }))
	if w.store.Snapshot().Service(web) != nil {
		t.Error("an ExternalName is a service")
	}
	local := corev1.ServiceInternalTrafficPolicyLocal
	w.put(webService(func(s *corev1.Service) {
		s.Spec.InternalTrafficPolicy, s.Spec.SessionAffinity = &local, corev1.ServiceAffinityClientIP
	}))
	if got := w.store.Snapshot().Service(web); got == nil || !got.Local || !got.Sticky {
		t.Errorf("local to each node, with affinity: got %+v", got)
	}
	w.put(webService())
	w.delete(webService())
	if w.store.Snapshot().Service(web) != nil {
		t.Error("a deleted service stays")
	}
}

func TestRefusedServices(t *testing.T) {
	for field, edit := range map[string]func(*corev1.Service){
		"spec.type":                func(s *corev1.Service) { s.Spec.Type = "Cluster" },
		"spec.clusterIPs[1]":       func(s *corev1.Service) { s.Spec.ClusterIPs[1] = "::1" },
		"spec.clusterIP":           func(s *corev1.Service) { s.Spec.ClusterIP = "10.96.0" },
		"spec.ports[0].port":       func(s *corev1.Service) { s.Spec.Ports[0].Port = 65536 },
		"spec.ports[1].targetPort": func(s *corev1.Service) { s.Spec.Ports[1].TargetPort.IntVal = -1 },
		"spec.ports[3].protocol":   func(s *corev1.Service) { s.Spec.Ports[3].Protocol = "tcp" },
	} {
		w := newWorld(t, webService())
		w.refuse(webService(edit), field)
		if w.store.Snapshot().Service(web) == nil {
			t.Errorf("%s: the last good one did not stay", field)
		}
	}
	for field, edit := range map[string]func(*discoveryv1.EndpointSlice){
		"addressType":               func(s *discoveryv1.EndpointSlice) { s.AddressType = "IPv5" },
		"ports[1].port":             func(s *discoveryv1.EndpointSlice) { s.Ports[1].Port = ptr(int32(0)) },
		"endpoints[0].addresses":    func(s *discoveryv1.EndpointSlice) { s.Endpoints[0].Addresses = nil },
		"endpoints[0].addresses[0]": func(s *discoveryv1.EndpointSlice) { s.Endpoints[0].Addresses[0] = "fd00::5" },
	} {
		w := newWorld(t, webService(), webSlice(), webPod())
		w.refuse(webSlice(edit), field)
		if len(w.store.Snapshot().Endpoints(web)) != 1 {
			t.Errorf("%s: the last good one did not stay", field)
		}
	}
}

func TestPodEndpoints(t *testing.T) {
	full := mesh.EndpointPorts{80: 8080, 81: 9000}
	tests := []struct {
		name  string
		pod   *corev1.Pod
		svc   *corev1.Service
		slice *discoveryv1.EndpointSlice
		want  mesh.EndpointPorts // nil: no endpoint
		ready bool
	}{
		{"by reference", webPod(), webService(), webSlice(), full, true},
		{"not ready, shown as such", webPod(notReady), webService(), webSlice(epReady(false)), full, false},
		{"pod ready, slice not yet", webPod(), webService(), webSlice(epReady(false)), nil, true},
		{"publishNotReadyAddresses", webPod(), webService(notReadyToo), webSlice(epReady(false)), full, true},
		{"terminating but serving", webPod(func(p *corev1.Pod) { p.DeletionTimestamp = &metav1.Time{} }), webService(), webSlice(epReady(false)), full, false},
		{"a former pod's", webPod(uid("u2")), webService(), webSlice(), nil, true},
		{"another pod's", webPod(), webService(), webSlice(func(s *discoveryv1.EndpointSlice) { s.Endpoints[0].TargetRef.Name = "other" }), nil, true},
		{"by address without reference", webPod(), webService(), webSlice(address("fd00::5")), full, true},
		{"every port", webPod(), webService(), webSlice(func(s *discoveryv1.EndpointSlice) { s.Ports[0].Port = nil }), mesh.EndpointPorts{80: 80, 81: 9000}, true},
		{"of no service", webPod(), webService(), webSlice(func(s *discoveryv1.EndpointSlice) { s.Labels = nil }), nil, true},
		{"of host names", webPod(), webService(), webSlice(func(s *discoveryv1.EndpointSlice) { s.AddressType = discoveryv1.AddressTypeFQDN }), nil, true},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			// Whatever order they come in, the end is the same.
			first := newWorld(t, tt.pod, tt.svc, tt.slice)
			second := newWorld(t)
			second.put(tt.slice)
			second.put(tt.svc)
			second.put(tt.pod)
			third := newWorld(t)
			third.put(tt.pod)
			third.put(tt.slice)
			third.put(tt.svc)
			for _, w := range []*world{first, second, third} {
				if diff := cmp.Diff(tt.want, w.web().Services[web]); diff != "" {
					t.Errorf("ports (-want +got)\n%s", diff)
				}
				if w.web().Ready != tt.ready {
					t.Errorf("ready: got %v", w.web().Ready)
				}
				n := 0
				w.store.Snapshot().Workloads(func(*mesh.Workload) bool { n++; return true })
				if n != 1 {
					t.Errorf("got %d workloads, want the pod only", n)
				}
			}
			first.delete(tt.svc)
			if first.web().Services != nil {
				t.Error("an endpoint of a service that is gone")
			}
			first.put(tt.svc)
			first.delete(tt.slice)
			if first.web().Services != nil {
				t.Error("an endpoint although its slice is gone")
			}
		})
	}
}

func TestEndpointThatIsNoPod(t *testing.T) {
	node := func(s *discoveryv1.EndpointSlice) { s.Endpoints[0].NodeName, s.Endpoints[0].Zone = ptr("n"), ptr("z") }
	w := newWorld(t, webService(), webSlice(address("192.0.2.9"), node))
	a := netip.MustParseAddr("192.0.2.9")
	got := w.store.Snapshot().WorkloadByAddr(a)
	if got == nil || got.Capture != mesh.Outside || got.PodUID != "" || got.Node != "n" || got.Zone != "z" || !got.Ready || got.Services[web][80] != 8080 || !got.Identity().IsZero() {
		t.Fatalf("got %+v", got)
	}
	w.put(webSlice(address("192.0.2.9"), epReady(false)))
	if w.store.Snapshot().WorkloadByAddr(a).Ready {
		t.Error("not ready, yet ready")
	}
	w.put(webSlice(address("192.0.2.8")))
	if s := w.store.Snapshot(); s.WorkloadByAddr(a) != nil || len(s.Endpoints(web)) != 1 {
		t.Errorf("the address moved, yet the old one answers")
	}
	w.delete(webSlice())
	if len(w.store.Snapshot().Endpoints(web)) != 0 {
		t.Error("the slice is gone, its endpoint not")
	}
}

// An address in a slice must not become a second, plaintext workload beside the pod that has it.
func TestPodTakesItsAddressFromSlice(t *testing.T) {
	w := newWorld(t, enrolledShop, webService(), webSlice(address("10.0.0.5")))
	a := netip.MustParseAddr("10.0.0.5")
	if got := w.store.Snapshot().WorkloadByAddr(a); got == nil || got.PodUID != "" {
		t.Fatalf("before the pod: %+v", got)
	}
	w.put(webPod(published("true")))
	s := w.store.Snapshot()
	if eps := s.Endpoints(web); len(eps) != 1 || eps[0].Capture != mesh.Captured || s.WorkloadByAddr(a) != eps[0] {
		t.Fatalf("with the pod: %+v", eps)
	}
	w.delete(webPod())
	if eps := w.store.Snapshot().Endpoints(web); len(eps) != 1 || eps[0].PodUID != "" {
		t.Errorf("without it again: %+v", eps)
	}
}

func TestHostNetworkEndpoint(t *testing.T) {
	w := newWorld(t, webService(), webSlice(), webPod(hostNetwork))
	if eps := w.store.Snapshot().Endpoints(web); len(eps) != 1 || !eps[0].HostNetwork || eps[0].Capture != mesh.Outside {
		t.Errorf("got %+v", eps)
	}
}
