// SPDX-License-Identifier: Apache-2.0

package manifests

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/util/intstr"

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

// familiesOf are the service's IP families: as written, or those of its cluster IPs, or both.
func familiesOf(svc *corev1.Service) []discoveryv1.AddressType {
	var out []discoveryv1.AddressType
	add := func(f discoveryv1.AddressType) {
		if !slices.Contains(out, f) {
			out = append(out, f)
		}
	}
	for _, f := range svc.Spec.IPFamilies {
		add(discoveryv1.AddressType(f))
	}
	if len(out) == 0 {
		for _, s := range append([]string{svc.Spec.ClusterIP}, svc.Spec.ClusterIPs...) {
			if a, err := netip.ParseAddr(s); err == nil {
				add(familyOf(a))
			}
		}
	}
	if len(out) == 0 {
		return []discoveryv1.AddressType{discoveryv1.AddressTypeIPv4, discoveryv1.AddressTypeIPv6}
	}
	return out
}

func familyOf(a netip.Addr) discoveryv1.AddressType {
	if a.Unmap().Is4() {
		return discoveryv1.AddressTypeIPv4
	}
	return discoveryv1.AddressTypeIPv6
}

func podAddress(pod *corev1.Pod, family discoveryv1.AddressType) (string, bool) {
	for _, ip := range append([]corev1.PodIP{{IP: pod.Status.PodIP}}, pod.Status.PodIPs...) {
		if a, err := netip.ParseAddr(ip.IP); err == nil && familyOf(a) == family {
			return a.Unmap().String(), true
		}
	}
	return "", false
}

// resolvePorts turns the service's target ports into the pod's numbers. A named port the pod does not have
// is left out.
func resolvePorts(svc *corev1.Service, pod *corev1.Pod) []discoveryv1.EndpointPort {
	var out []discoveryv1.EndpointPort
	for i := range svc.Spec.Ports {
		sp := &svc.Spec.Ports[i]
		protocol := sp.Protocol
		if protocol == "" {
			protocol = corev1.ProtocolTCP
		}
		port, ok := targetOf(sp, protocol, pod)
		if !ok {
			continue
		}
		out = append(out, discoveryv1.EndpointPort{Name: &sp.Name, Protocol: &protocol, Port: &port, AppProtocol: sp.AppProtocol})
	}
	return out
}

func targetOf(sp *corev1.ServicePort, protocol corev1.Protocol, pod *corev1.Pod) (int32, bool) {
	t := sp.TargetPort
	if t.Type == intstr.Int {
		if t.IntVal == 0 {
			return sp.Port, true
		}
		return t.IntVal, true
	}
	containers := slices.Clone(pod.Spec.Containers)
	for _, c := range pod.Spec.InitContainers {
		if c.RestartPolicy != nil && *c.RestartPolicy == corev1.ContainerRestartPolicyAlways {
			containers = append(containers, c)
		}
	}
	for _, c := range containers {
		for _, p := range c.Ports {
			if p.Name == t.StrVal && (p.Protocol == protocol || p.Protocol == "" && protocol == corev1.ProtocolTCP) {
				return p.ContainerPort, true
			}
		}
	}
	return 0, false
}

func portsID(ports []discoveryv1.EndpointPort) string {
	var b strings.Builder
	for _, p := range ports {
		fmt.Fprintf(&b, " %s/%s/%d", *p.Name, *p.Protocol, *p.Port)
	}
	return b.String()
}
