// SPDX-License-Identifier: Apache-2.0

package kube

import (
	"slices"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	networkingv1 "k8s.io/api/networking/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
)

// readAnnotations are the annotations of pods that are read.
var readAnnotations = []string{KeyMesh, KeyDataplaneMode, KeyCaptured, KeyExcept, keySidecarStatus}

// Trim returns an object with nothing in it but what the Translator reads, so that a change of anything else
// compares as none. It shares what it keeps with o, which is not modified. Policies come back as they are: nearly all of
// them is read. What a converter begins to read has to be added here; TestTrimKeepsWhatIsRead goes red otherwise.
func Trim(o runtime.Object) runtime.Object {
	switch o := o.(type) {
	case *corev1.Pod:
		return trimPod(o)
	case *corev1.Namespace:
		return &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{
			Name: o.Name, Labels: pick(o.Labels, KeyMesh, KeyDataplaneMode), Annotations: pick(o.Annotations, KeyMesh, KeyDataplaneMode),
		}}
	case *corev1.Node:
		return &corev1.Node{
			ObjectMeta: metav1.ObjectMeta{Name: o.Name, Labels: pick(o.Labels, corev1.LabelTopologyRegion, corev1.LabelTopologyZone)},
			Spec:       corev1.NodeSpec{PodCIDR: o.Spec.PodCIDR, PodCIDRs: o.Spec.PodCIDRs},
		}
	case *networkingv1.ServiceCIDR:
		return &networkingv1.ServiceCIDR{ObjectMeta: metav1.ObjectMeta{Name: o.Name}, Spec: o.Spec}
	case *corev1.Service:
		return trimService(o)
	case *discoveryv1.EndpointSlice:
		return trimSlice(o)
	}
	return o
}

func trimPod(o *corev1.Pod) *corev1.Pod {
	p := &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{
			Name: o.Name, Namespace: o.Namespace, UID: o.UID, DeletionTimestamp: o.DeletionTimestamp,
			Labels: o.Labels, Annotations: pick(o.Annotations, readAnnotations...),
		},
		Spec:   corev1.PodSpec{NodeName: o.Spec.NodeName, ServiceAccountName: o.Spec.ServiceAccountName, HostNetwork: o.Spec.HostNetwork},
		Status: corev1.PodStatus{Phase: o.Status.Phase, PodIP: o.Status.PodIP, PodIPs: o.Status.PodIPs},
	}
	if ref := metav1.GetControllerOfNoCopy(o); ref != nil {
		p.OwnerReferences = []metav1.OwnerReference{{Kind: ref.Kind, Name: ref.Name, Controller: ref.Controller}}
	}
	for _, c := range o.Status.Conditions {
		if c.Type == corev1.PodReady {
			p.Status.Conditions = []corev1.PodCondition{{Type: c.Type, Status: c.Status}}
		}
	}
	return p
}

func trimService(o *corev1.Service) *corev1.Service {
	s := &corev1.Service{
		ObjectMeta: metav1.ObjectMeta{Name: o.Name, Namespace: o.Namespace},
		Spec: corev1.ServiceSpec{
			Type: o.Spec.Type, ClusterIP: o.Spec.ClusterIP, ClusterIPs: o.Spec.ClusterIPs,
			PublishNotReadyAddresses: o.Spec.PublishNotReadyAddresses, Ports: slices.Clone(o.Spec.Ports),
			InternalTrafficPolicy: o.Spec.InternalTrafficPolicy, SessionAffinity: o.Spec.SessionAffinity,
		},
	}
	for i := range s.Spec.Ports {
		s.Spec.Ports[i].NodePort = 0
	}
	return s
}

func trimSlice(o *discoveryv1.EndpointSlice) *discoveryv1.EndpointSlice {
	s := &discoveryv1.EndpointSlice{
		ObjectMeta:  metav1.ObjectMeta{Name: o.Name, Namespace: o.Namespace, Labels: pick(o.Labels, discoveryv1.LabelServiceName)},
		AddressType: o.AddressType, Ports: o.Ports,
	}
	for _, e := range o.Endpoints {
		t := discoveryv1.Endpoint{
			Addresses: e.Addresses, NodeName: e.NodeName, Zone: e.Zone,
			Conditions: discoveryv1.EndpointConditions{Ready: e.Conditions.Ready},
		}
		if r := e.TargetRef; r != nil {
			t.TargetRef = &corev1.ObjectReference{Kind: r.Kind, Namespace: r.Namespace, Name: r.Name, UID: r.UID}
		}
		s.Endpoints = append(s.Endpoints, t)
	}
	return s
}

// pick returns the entries of those keys; nil when there is none.
func pick(from map[string]string, keys ...string) map[string]string {
	var out map[string]string
	for _, k := range keys {
		if v, ok := from[k]; ok {
			if out == nil {
				out = make(map[string]string, 1)
			}
			out[k] = v
		}
	}
	return out
}
