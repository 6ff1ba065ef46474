// SPDX-License-Identifier: Apache-2.0

package netns

import (
	"cmp"
	"fmt"
	"net/netip"
	"slices"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/util/intstr"
)

// ServiceOption changes a service's object before it is written.
type ServiceOption func(*corev1.Service)

// TCP adds a port.
func TCP(port, target int) ServiceOption {
	return func(s *corev1.Service) {
		s.Spec.Ports = append(s.Spec.Ports, corev1.ServicePort{
			Name: fmt.Sprintf("tcp-%d", port), Protocol: corev1.ProtocolTCP,
			Port: int32(port), TargetPort: intstr.FromInt32(int32(target)),
		})
	}
}

// Headless takes the ClusterIP away: the name stands for the pods' addresses.
func Headless() ServiceOption {
	return func(s *corev1.Service) {
		s.Spec.ClusterIP, s.Spec.ClusterIPs = corev1.ClusterIPNone, []string{corev1.ClusterIPNone}
	}
}

// Service is a service's name and addresses.
type Service struct {
	Name, Namespace string
	IPv4, IPv6      netip.Addr // zero when headless
}

// Service makes a dual-stack service over the pods that the selector finds.
func (m *Mesh) Service(name, namespace string, selector map[string]string, options ...ServiceOption) *Service {
	m.t.Helper()
	m.mu.Lock()
	defer m.mu.Unlock()
	m.ensureNamespace(namespace)
	dual := corev1.IPFamilyPolicyRequireDualStack
	v4, v6 := nth(servicesIPv4, m.next), nth(servicesIPv6, m.next)
	m.next++
	o := &corev1.Service{
		TypeMeta:   metav1.TypeMeta{APIVersion: "v1", Kind: "Service"},
		ObjectMeta: metav1.ObjectMeta{Name: name, Namespace: namespace, UID: newUID(), CreationTimestamp: metav1.Now()},
		Spec: corev1.ServiceSpec{
			Type: corev1.ServiceTypeClusterIP, Selector: selector,
			ClusterIP: v4.String(), ClusterIPs: []string{v4.String(), v6.String()},
			IPFamilies: []corev1.IPFamily{corev1.IPv4Protocol, corev1.IPv6Protocol}, IPFamilyPolicy: &dual,
		},
	}
	for _, opt := range options {
		opt(o)
	}
	m.put(o)
	m.changed()
	if o.Spec.ClusterIP == corev1.ClusterIPNone {
		return &Service{Name: name, Namespace: namespace}
	}
	return &Service{Name: name, Namespace: namespace, IPv4: v4, IPv6: v6}
}

// services returns the services in a stable order. The caller holds the lock.
func (m *Mesh) services() []*corev1.Service {
	var out []*corev1.Service
	for _, s := range m.objects {
		if o, ok := s.typed.(*corev1.Service); ok {
			out = append(out, o)
		}
	}
	slices.SortFunc(out, func(a, b *corev1.Service) int {
		return cmp.Or(cmp.Compare(a.Namespace, b.Namespace), cmp.Compare(a.Name, b.Name))
	})
	return out
}

// endpoints returns the ready pods behind a service, in a stable order.
func (m *Mesh) endpoints(s *corev1.Service) []*corev1.Pod {
	if len(s.Spec.Selector) == 0 {
		return nil
	}
	match := labels.SelectorFromSet(s.Spec.Selector)
	var out []*corev1.Pod
	for _, st := range m.objects {
		p, ok := st.typed.(*corev1.Pod)
		if ok && p.Namespace == s.Namespace && match.Matches(labels.Set(p.Labels)) && ready(p) {
			out = append(out, p)
		}
	}
	slices.SortFunc(out, func(a, b *corev1.Pod) int { return cmp.Compare(a.Name, b.Name) })
	return out
}

func ready(p *corev1.Pod) bool {
	return slices.ContainsFunc(p.Status.Conditions, func(c corev1.PodCondition) bool {
		return c.Type == corev1.PodReady && c.Status == corev1.ConditionTrue
	})
}

// podAddrs returns the pod's addresses of one family.
func podAddrs(p *corev1.Pod, v6 bool) []netip.Addr {
	var out []netip.Addr
	for _, ip := range p.Status.PodIPs {
		if a, err := netip.ParseAddr(ip.IP); err == nil && a.Is6() == v6 {
			out = append(out, a)
		}
	}
	return out
}

// targetPort finds the number of a service port's target on a pod; 0 when the pod has no port of that name.
func targetPort(p *corev1.Pod, port corev1.ServicePort) int {
	switch {
	case port.TargetPort.Type == intstr.Int && port.TargetPort.IntVal == 0:
		return int(port.Port)
	case port.TargetPort.Type == intstr.Int:
		return int(port.TargetPort.IntVal)
	}
	for _, c := range p.Spec.Containers {
		for _, cp := range c.Ports {
			if cp.Name == port.TargetPort.StrVal {
				return int(cp.ContainerPort)
			}
		}
	}
	return 0
}
