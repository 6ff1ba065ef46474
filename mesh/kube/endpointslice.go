// SPDX-License-Identifier: Apache-2.0

package kube

import (
	"net/netip"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	"k8s.io/apimachinery/pkg/util/validation/field"

	"github.com/warren-mesh/warren/mesh"
)

// slice is an EndpointSlice: endpoints of one service that all have the same ports.
type slice struct {
	name      mesh.Name
	service   mesh.Name
	ports     []slicePort
	endpoints []endpoint
}

type slicePort struct {
	name string
	port uint16 // 0: whatever the service's port is
}

// endpoint is a pod by reference, or an address.
type endpoint struct {
	pod        mesh.Name // zero without a reference to a pod
	podUID     string
	addr       netip.Addr
	ready      bool
	node, zone string
}

// sliceFrom reads an EndpointSlice. It returns nil without an error for one that belongs to no service or
// whose addresses are host names.
func sliceFrom(o *discoveryv1.EndpointSlice) (*slice, field.ErrorList) {
	var errs field.ErrorList
	switch o.AddressType {
	case discoveryv1.AddressTypeFQDN:
		return nil, nil
	case discoveryv1.AddressTypeIPv4, discoveryv1.AddressTypeIPv6:
	default:
		errs = append(errs, field.NotSupported(field.NewPath("addressType"), o.AddressType,
			[]discoveryv1.AddressType{discoveryv1.AddressTypeIPv4, discoveryv1.AddressTypeIPv6, discoveryv1.AddressTypeFQDN}))
	}
	s := &slice{name: mesh.Name{Namespace: o.Namespace, Name: o.Name}}
	if svc := o.Labels[discoveryv1.LabelServiceName]; svc != "" {
		s.service = mesh.Name{Namespace: o.Namespace, Name: svc}
	}
	for i, p := range o.Ports {
		if p.Protocol != nil && *p.Protocol != corev1.ProtocolTCP {
			continue
		}
		sp := slicePort{}
		if p.Name != nil {
			sp.name = *p.Name
		}
		if p.Port != nil {
			if *p.Port < 1 || *p.Port > 65535 {
				errs = append(errs, field.Invalid(field.NewPath("ports").Index(i).Child("port"), *p.Port, "not a port (1 to 65535)"))
				continue
			}
			sp.port = uint16(*p.Port)
		}
		s.ports = append(s.ports, sp)
	}
	for i, e := range o.Endpoints {
		ep, err := endpointFrom(field.NewPath("endpoints").Index(i), e, o)
		if err != nil {
			errs = append(errs, err)
			continue
		}
		s.endpoints = append(s.endpoints, ep)
	}
	if len(errs) == 0 && s.service.IsZero() {
		return nil, nil
	}
	return s, errs
}

// endpointFrom reads one endpoint. Its further addresses stand for the same endpoint and add nothing.
func endpointFrom(path *field.Path, e discoveryv1.Endpoint, o *discoveryv1.EndpointSlice) (endpoint, *field.Error) {
	if len(e.Addresses) == 0 {
		return endpoint{}, field.Required(path.Child("addresses"), "an endpoint has an address")
	}
	at := path.Child("addresses").Index(0)
	a, err := parseAddr(at, e.Addresses[0])
	if err != nil {
		return endpoint{}, err
	}
	if a.Is4() != (o.AddressType == discoveryv1.AddressTypeIPv4) {
		return endpoint{}, field.Invalid(at, e.Addresses[0], "not of addressType "+string(o.AddressType))
	}
	ep := endpoint{addr: a, ready: e.Conditions.Ready == nil || *e.Conditions.Ready}
	if e.NodeName != nil {
		ep.node = *e.NodeName
	}
	if e.Zone != nil {
		ep.zone = *e.Zone
	}
	if r := e.TargetRef; r != nil && r.Kind == "Pod" {
		ep.pod = mesh.Name{Namespace: r.Namespace, Name: r.Name}
		ep.podUID = string(r.UID)
		if r.Namespace == "" {
			ep.pod.Namespace = o.Namespace
		}
	}
	return ep, nil
}

func (t *Translator) putSlice(k Key, o *discoveryv1.EndpointSlice) (errs, partial field.ErrorList) {
	s, errs := sliceFrom(o)
	if len(errs) > 0 {
		return errs, nil
	}
	t.deleteSlice(k)
	if s == nil {
		return nil, nil
	}
	t.slices[s.name] = s
	addTo(t.slicesByService, s.service, s.name)
	for _, e := range s.endpoints {
		if e.pod.IsZero() {
			addFew(t.slicesByAddr, e.addr, s.name)
		} else {
			addFew(t.slicesByPod, e.pod, s.name)
		}
	}
	t.touchSlice(s)
	return nil, nil
}

func (t *Translator) deleteSlice(k Key) {
	s := t.slices[k.meshName()]
	if s == nil {
		return
	}
	t.touchSlice(s)
	delete(t.slices, s.name)
	removeFrom(t.slicesByService, s.service, s.name)
	for _, e := range s.endpoints {
		removeFew(t.slicesByAddr, e.addr, s.name)
		removeFew(t.slicesByPod, e.pod, s.name)
	}
}

// touchSlice has the slice and the pods it names looked at again.
func (t *Translator) touchSlice(s *slice) {
	t.dirtySlices.add(s.name)
	for _, e := range s.endpoints {
		if e.pod.IsZero() {
			t.dirtyPods.addFew(t.podsByAddr[e.addr])
		} else {
			t.dirtyPods.add(e.pod)
		}
	}
}
