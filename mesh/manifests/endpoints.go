// SPDX-License-Identifier: Apache-2.0

package manifests

import (
	"fmt"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/runtime"

	"github.com/warren-mesh/warren/mesh/kube"
)

// derivedSlices are the EndpointSlices of every service that has a selector and no slice of its own, as the
// endpointslice controller would write them.
func derivedSlices(objects map[kube.Key]runtime.Object) map[kube.Key]*discoveryv1.EndpointSlice {
	own := map[kube.Key]bool{} // services with slices in the directory
	pods := map[string][]*corev1.Pod{}
	for _, o := range objects {
		switch o := o.(type) {
		case *discoveryv1.EndpointSlice:
			own[kube.Key{Kind: "Service", Namespace: o.Namespace, Name: o.Labels[discoveryv1.LabelServiceName]}] = true
		case *corev1.Pod:
			pods[o.Namespace] = append(pods[o.Namespace], o)
		}
	}
	for _, ps := range pods {
		slices.SortFunc(ps, func(a, b *corev1.Pod) int { return strings.Compare(a.Name, b.Name) })
	}
	out := map[kube.Key]*discoveryv1.EndpointSlice{}
	for k, o := range objects {
		svc, ok := o.(*corev1.Service)
		if !ok || own[k] || len(svc.Spec.Selector) == 0 || svc.Spec.Type == corev1.ServiceTypeExternalName {
			continue
		}
		for _, s := range slicesOf(svc, pods[svc.Namespace]) {
			out[kube.Key{Kind: "EndpointSlice", Namespace: s.Namespace, Name: s.Name}] = s
		}
	}
	return out
}

// maxEndpoints is how many endpoints a slice holds, as in Kubernetes by default. It bounds what is looked at
// again when one endpoint changes.
const maxEndpoints = 100

// slicesOf makes slices for each address family and set of resolved ports.
func slicesOf(svc *corev1.Service, pods []*corev1.Pod) []*discoveryv1.EndpointSlice {
	selector := labels.SelectorFromSet(svc.Spec.Selector)
	made := map[string]*discoveryv1.EndpointSlice{} // the one being filled, by family and ports
	count := map[discoveryv1.AddressType]int{}
	var out []*discoveryv1.EndpointSlice
	for _, pod := range pods {
		if !selector.Matches(labels.Set(pod.Labels)) || pod.Status.Phase == corev1.PodSucceeded || pod.Status.Phase == corev1.PodFailed {
			continue
		}
		ports := resolvePorts(svc, pod)
		if len(ports) == 0 && len(svc.Spec.Ports) > 0 {
			continue
		}
		for _, family := range familiesOf(svc) {
			addr, ok := podAddress(pod, family)
			if !ok {
				continue
			}
			id := string(family) + portsID(ports)
			s := made[id]
			if s == nil || len(s.Endpoints) == maxEndpoints {
				s = newSlice(svc, family, ports)
				made[id] = s
				out = append(out, s)
				count[family]++
				s.Name = fmt.Sprintf("%s-derived-%s-%d", svc.Name, strings.ToLower(string(family)), count[family])
			}
			s.Endpoints = append(s.Endpoints, endpointOf(svc, pod, addr))
		}
	}
	return out
}

func newSlice(svc *corev1.Service, family discoveryv1.AddressType, ports []discoveryv1.EndpointPort) *discoveryv1.EndpointSlice {
	return &discoveryv1.EndpointSlice{
		ObjectMeta: metav1.ObjectMeta{
			Namespace: svc.Namespace,
			Labels:    map[string]string{discoveryv1.LabelServiceName: svc.Name, discoveryv1.LabelManagedBy: "manifests.warren.dev"},
		},
		AddressType: family,
		Ports:       ports,
	}
}

func endpointOf(svc *corev1.Service, pod *corev1.Pod, addr string) discoveryv1.Endpoint {
	serving, terminating := false, pod.DeletionTimestamp != nil
	for _, c := range pod.Status.Conditions {
		if c.Type == corev1.PodReady {
			serving = c.Status == corev1.ConditionTrue
		}
	}
	ready := svc.Spec.PublishNotReadyAddresses || serving && !terminating
	serving = serving || svc.Spec.PublishNotReadyAddresses
	e := discoveryv1.Endpoint{
		Addresses:  []string{addr},
		Conditions: discoveryv1.EndpointConditions{Ready: &ready, Serving: &serving, Terminating: &terminating},
		TargetRef:  &corev1.ObjectReference{Kind: "Pod", Namespace: pod.Namespace, Name: pod.Name, UID: pod.UID},
	}
	if pod.Spec.NodeName != "" {
		e.NodeName = &pod.Spec.NodeName
	}
	return e
}
