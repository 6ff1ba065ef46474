// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"fmt"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/intstr"
)

// Port is a service's port and its target.
type Port struct{ Port, Target int32 }

// Service is a dual-stack Service in front of an App.
type Service struct {
	Name     string
	App      string // default Name
	Ports    []Port // default 80 to EchoPort
	Headless bool
	Change   func(*corev1.Service)
}

// Service makes one, and returns it with its addresses.
func (n *Namespace) Service(s Service) *corev1.Service {
	n.t.Helper()
	if s.App == "" {
		s.App = s.Name
	}
	if s.Ports == nil {
		s.Ports = []Port{{80, EchoPort}}
	}
	both := corev1.IPFamilyPolicyRequireDualStack
	o := &corev1.Service{ObjectMeta: n.object(s.Name, s.App, nil, nil), Spec: corev1.ServiceSpec{
		Selector: map[string]string{"app": s.App}, IPFamilyPolicy: &both,
	}}
	for _, p := range s.Ports {
		o.Spec.Ports = append(o.Spec.Ports, corev1.ServicePort{Name: fmt.Sprint("p", p.Port), Port: p.Port, TargetPort: intstr.FromInt32(p.Target)})
	}
	if s.Headless {
		o.Spec.ClusterIP = corev1.ClusterIPNone
	}
	if s.Change != nil {
		s.Change(o)
	}
	o, err := n.mesh.Client().CoreV1().Services(n.Name).Create(n.t.Context(), o, metav1.CreateOptions{})
	if err != nil {
		n.t.Fatal(err)
	}
	return o
}
