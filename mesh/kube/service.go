// SPDX-License-Identifier: Apache-2.0

package kube

import (
	"slices"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/util/intstr"
	"k8s.io/apimachinery/pkg/util/validation/field"

	"github.com/warren-mesh/warren/mesh"
)

// serviceFrom reads a service. It returns nil without an error for what has no endpoints of its own
// (ExternalName). A service without cluster IP has no virtual address: it is reached by its endpoints.
func serviceFrom(o *corev1.Service, clusterDomain string) (*mesh.Service, field.ErrorList) {
	spec := field.NewPath("spec")
	var errs field.ErrorList
	switch o.Spec.Type {
	case corev1.ServiceTypeExternalName:
		return nil, nil
	case "", corev1.ServiceTypeClusterIP, corev1.ServiceTypeNodePort, corev1.ServiceTypeLoadBalancer:
	default:
		errs = append(errs, field.NotSupported(spec.Child("type"), o.Spec.Type, []corev1.ServiceType{
			corev1.ServiceTypeClusterIP, corev1.ServiceTypeNodePort, corev1.ServiceTypeLoadBalancer, corev1.ServiceTypeExternalName}))
	}
	s := &mesh.Service{
		Namespace:       o.Namespace,
		Name:            o.Name,
		Hostname:        o.Name + "." + o.Namespace + ".svc." + clusterDomain,
		PublishNotReady: o.Spec.PublishNotReadyAddresses,
		Local:           o.Spec.InternalTrafficPolicy != nil && *o.Spec.InternalTrafficPolicy == corev1.ServiceInternalTrafficPolicyLocal,
		Sticky:          o.Spec.SessionAffinity == corev1.ServiceAffinityClientIP,
	}
	add := func(path *field.Path, v string) {
		if v == "" || v == corev1.ClusterIPNone {
			return
		}
		a, err := parseAddr(path, v)
		switch {
		case err != nil:
			errs = append(errs, err)
		case !slices.Contains(s.Addresses, a):
			s.Addresses = append(s.Addresses, a)
		}
	}
	add(spec.Child("clusterIP"), o.Spec.ClusterIP)
	for i, ip := range o.Spec.ClusterIPs {
		add(spec.Child("clusterIPs").Index(i), ip)
	}
	for i, p := range o.Spec.Ports {
		path := spec.Child("ports").Index(i)
		if p.Port < 1 || p.Port > 65535 {
			errs = append(errs, field.Invalid(path.Child("port"), p.Port, "not a port (1 to 65535)"))
			continue
		}
		switch p.Protocol {
		case "", corev1.ProtocolTCP:
		case corev1.ProtocolUDP, corev1.ProtocolSCTP:
			continue
		default:
			errs = append(errs, field.NotSupported(path.Child("protocol"), p.Protocol,
				[]corev1.Protocol{corev1.ProtocolTCP, corev1.ProtocolUDP, corev1.ProtocolSCTP}))
			continue
		}
		target, err := targetPort(path.Child("targetPort"), p)
		if err != nil {
			errs = append(errs, err)
			continue
		}
		sp := mesh.ServicePort{Name: p.Name, Port: uint16(p.Port), TargetPort: target}
		if p.AppProtocol != nil {
			sp.AppProtocol = *p.AppProtocol
		}
		s.Ports = append(s.Ports, sp)
	}
	return s, errs
}

// targetPort is the endpoints' port where the service itself says it: zero for a named one.
func targetPort(path *field.Path, p corev1.ServicePort) (uint16, *field.Error) {
	t := p.TargetPort
	switch {
	case t.Type == intstr.String && t.StrVal != "":
		return 0, nil
	case t.IntVal == 0:
		return uint16(p.Port), nil
	case t.IntVal < 0 || t.IntVal > 65535:
		return 0, field.Invalid(path, t.IntVal, "not a port (1 to 65535)")
	}
	return uint16(t.IntVal), nil
}

func (t *Translator) putService(k Key, o *corev1.Service) (errs, partial field.ErrorList) {
	s, errs := serviceFrom(o, t.cfg.ClusterDomain)
	if len(errs) > 0 {
		return errs, nil
	}
	if s == nil {
		t.deleteService(k)
		return nil, nil
	}
	t.services[k.meshName()] = s
	t.touchService(k.meshName())
	return nil, nil
}

func (t *Translator) deleteService(k Key) {
	delete(t.services, k.meshName())
	t.touchService(k.meshName())
}

// touchService has the service and all its endpoints looked at again.
func (t *Translator) touchService(n mesh.Name) {
	t.dirtyServices.add(n)
	for sl := range t.slicesByService[n] {
		t.touchSlice(t.slices[sl])
	}
}
