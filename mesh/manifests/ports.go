// SPDX-License-Identifier: Apache-2.0

package manifests

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	"k8s.io/apimachinery/pkg/util/intstr"
)

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
