// SPDX-License-Identifier: Apache-2.0

package kube

import (
	"net/netip"

	"github.com/warren-mesh/warren/mesh"
)

// portsOf maps the service's ports to those of the slice's endpoints, by name.
func portsOf(svc *mesh.Service, s *slice) mesh.EndpointPorts {
	out := mesh.EndpointPorts{}
	for _, sp := range svc.Ports {
		for _, p := range s.ports {
			if p.name != sp.Name {
				continue
			}
			out[sp.Port] = p.port
			if p.port == 0 {
				out[sp.Port] = sp.Port
			}
		}
	}
	return out
}

// podEndpoints are the services a pod is an endpoint of. An endpoint without a reference whose address is
// the pod's is the pod too: what is captured must not be reachable under another name in plaintext.
func (t *Translator) podEndpoints(p *pod) map[mesh.Name]mesh.EndpointPorts {
	var out map[mesh.Name]mesh.EndpointPorts
	visit := func(sl mesh.Name, is func(endpoint) bool) {
		s := t.slices[sl]
		svc := t.services[s.service]
		if svc == nil {
			return
		}
		for _, e := range s.endpoints {
			// A slice that lags behind a pod just ready is right: others do not send to it yet either.
			if !is(e) || p.ready && !e.ready && !svc.PublishNotReady {
				continue
			}
			if out == nil {
				out = map[mesh.Name]mesh.EndpointPorts{}
			}
			if out[s.service] == nil {
				out[s.service] = mesh.EndpointPorts{}
			}
			for k, v := range portsOf(svc, s) {
				if old, ok := out[s.service][k]; !ok || v < old { // slices that differ come in no order
					out[s.service][k] = v
				}
			}
		}
	}
	for sl := range t.slicesByPod[p.name].all() {
		visit(sl, func(e endpoint) bool { return e.pod == p.name && (e.podUID == "" || e.podUID == p.uid) })
	}
	if p.hostNetwork {
		return out
	}
	for _, a := range p.addresses {
		for sl := range t.slicesByAddr[a].all() {
			visit(sl, func(e endpoint) bool { return e.pod.IsZero() && e.addr == a })
		}
	}
	return out
}

// sliceWorkloads are the slice's endpoints that are no pods, by workload uid.
func (t *Translator) sliceWorkloads(s *slice) map[string]*mesh.Workload {
	out := map[string]*mesh.Workload{}
	svc := t.services[s.service]
	for _, e := range s.endpoints {
		if !e.pod.IsZero() || t.podsByAddr[e.addr].len() > 0 {
			continue
		}
		w := &mesh.Workload{
			UID:         t.cfg.Cluster + "/discovery.k8s.io/EndpointSlice/" + s.name.String() + "/" + e.addr.String(),
			Namespace:   s.name.Namespace,
			Name:        s.service.Name + "-" + e.addr.String(),
			Addresses:   []netip.Addr{e.addr},
			Node:        e.node,
			Zone:        e.zone,
			TrustDomain: t.cfg.TrustDomain,
			Cluster:     t.cfg.Cluster,
			Capture:     mesh.Outside,
			Ready:       e.ready,

			WorkloadName: s.service.Name, WorkloadType: "pod",
			CanonicalName: s.service.Name, CanonicalRevision: "latest",
		}
		if svc != nil {
			w.Services = map[mesh.Name]mesh.EndpointPorts{s.service: portsOf(svc, s)}
		}
		out[w.UID] = w
	}
	return out
}
