// SPDX-License-Identifier: Apache-2.0

package wds

import (
	"errors"
	"fmt"
	"slices"

	"github.com/warren-mesh/warren/mesh"
	"github.com/warren-mesh/warren/mesh/wds/warrenpb"
	"github.com/warren-mesh/warren/mesh/wds/workloadpb"
)

// hbonePort is where a waypoint listens (ambient's 15008).
const hbonePort = 15008

// appProtocols maps what the Kubernetes port says onto the few words WDS has.
var appProtocols = map[string]workloadpb.AppProtocol{
	"http":               workloadpb.AppProtocol_HTTP11,
	"http2":              workloadpb.AppProtocol_HTTP2,
	"kubernetes.io/h2c":  workloadpb.AppProtocol_HTTP2,
	"grpc":               workloadpb.AppProtocol_GRPC,
	"kubernetes.io/grpc": workloadpb.AppProtocol_GRPC,
}

// protocolNames is the reverse for a sender that is not Warren.
var protocolNames = map[workloadpb.AppProtocol]string{
	workloadpb.AppProtocol_HTTP11: "http",
	workloadpb.AppProtocol_HTTP2:  "http2",
	workloadpb.AppProtocol_GRPC:   "grpc",
}

// FromService returns the message for s.
func FromService(s *mesh.Service, domain string) *workloadpb.Service {
	m := &workloadpb.Service{
		Name: s.Name, Namespace: s.Namespace, Hostname: serviceHost(s, domain),
		SubjectAltNames: s.SubjectAltNames,
	}
	for _, a := range s.Addresses {
		m.Addresses = append(m.Addresses, &workloadpb.NetworkAddress{Address: a.Unmap().AsSlice()})
	}
	x, worth := &warrenpb.ServiceExtension{Sticky: s.Sticky}, s.Sticky
	for _, p := range s.Ports {
		m.Ports = append(m.Ports, &workloadpb.Port{
			ServicePort: uint32(p.Port), TargetPort: uint32(p.TargetPort), AppProtocol: appProtocols[p.AppProtocol],
		})
		x.Ports = append(x.Ports, &warrenpb.ServicePort{Port: uint32(p.Port), Name: p.Name, AppProtocol: p.AppProtocol})
		worth = worth || p.Name != "" || p.AppProtocol != ""
	}
	if worth {
		m.Extensions = pack(x)
	}
	m.LoadBalancing = loadBalancing(s)
	if !s.Waypoint.IsZero() {
		m.Waypoint = &workloadpb.GatewayAddress{
			Destination: &workloadpb.GatewayAddress_Hostname{Hostname: &workloadpb.NamespacedHostname{
				Namespace: s.Waypoint.Namespace, Hostname: hostname(s.Waypoint, domain),
			}},
			HboneMtlsPort: hbonePort,
		}
	}
	return m
}

// loadBalancing is nil for what is usual.
func loadBalancing(s *mesh.Service) *workloadpb.LoadBalancing {
	if !s.PublishNotReady && !s.Local {
		return nil
	}
	m := &workloadpb.LoadBalancing{}
	if s.PublishNotReady {
		m.HealthPolicy = workloadpb.LoadBalancing_ALLOW_ALL
	}
	if s.Local {
		m.Mode, m.RoutingPreference = workloadpb.LoadBalancing_STRICT, []workloadpb.LoadBalancing_Scope{workloadpb.LoadBalancing_NODE}
	}
	return m
}

func serviceHost(s *mesh.Service, domain string) string {
	if s.Hostname != "" {
		return s.Hostname
	}
	return hostname(s.NamespacedName(), domain)
}

// ToService returns the service a message stands for. Its name is derived from the host name, as its
// endpoints name it by that.
func ToService(m *workloadpb.Service) (*mesh.Service, error) {
	if m.GetNamespace() == "" || m.GetHostname() == "" {
		return nil, errors.New("namespace or hostname is empty")
	}
	n := serviceName(m.Namespace, m.Hostname)
	x := &warrenpb.ServiceExtension{}
	if _, err := unpack(m.Extensions, x); err != nil {
		return nil, err
	}
	s := &mesh.Service{
		Namespace: n.Namespace, Name: n.Name, Hostname: m.Hostname,
		SubjectAltNames: m.SubjectAltNames,
		PublishNotReady: m.GetLoadBalancing().GetHealthPolicy() == workloadpb.LoadBalancing_ALLOW_ALL,
		Local: m.GetLoadBalancing().GetMode() == workloadpb.LoadBalancing_STRICT &&
			slices.Contains(m.LoadBalancing.RoutingPreference, workloadpb.LoadBalancing_NODE),
		Sticky: x.Sticky,
	}
	for _, a := range m.Addresses {
		addr, err := parseAddr(a.GetAddress())
		if err != nil {
			return nil, err
		}
		if a.Length != nil && int(*a.Length) < 8*len(a.GetAddress()) {
			return nil, fmt.Errorf("address %s/%d: ranges are not supported", addr, *a.Length)
		}
		s.Addresses = append(s.Addresses, addr)
	}
	var err error
	if s.Ports, err = toServicePorts(m, x); err != nil {
		return nil, err
	}
	s.Waypoint, err = toWaypoint(m)
	return s, err
}

func toServicePorts(m *workloadpb.Service, x *warrenpb.ServiceExtension) ([]mesh.ServicePort, error) {
	var out []mesh.ServicePort
	for i, p := range m.Ports {
		port, err := parsePort(p.GetServicePort())
		if err != nil {
			return nil, err
		}
		target, err := parsePort(p.GetTargetPort())
		if err != nil {
			return nil, err
		}
		sp := mesh.ServicePort{Port: port, TargetPort: target, AppProtocol: protocolNames[p.GetAppProtocol()]}
		if i < len(x.Ports) && x.Ports[i].GetPort() == p.GetServicePort() {
			sp.Name, sp.AppProtocol = x.Ports[i].GetName(), x.Ports[i].GetAppProtocol()
		}
		out = append(out, sp)
	}
	return out, nil
}

// toWaypoint never loses that there is a waypoint: one given by address becomes a name no service has, and
// connections fail instead of going around it. Of several weighted ones the first stands for all.
func toWaypoint(m *workloadpb.Service) (mesh.Name, error) {
	g := m.Waypoint
	if g == nil && len(m.WeightedWaypoints) > 0 {
		if g = m.WeightedWaypoints[0].GetDestination(); g == nil {
			return mesh.Name{}, errors.New("weighted waypoint has no destination")
		}
	}
	if g == nil {
		return mesh.Name{}, nil
	}
	if h := g.GetHostname(); h.GetHostname() != "" {
		return serviceName(h.GetNamespace(), h.GetHostname()), nil
	}
	a, err := parseAddr(g.GetAddress().GetAddress())
	if err != nil {
		return mesh.Name{}, fmt.Errorf("waypoint: %w", err)
	}
	return mesh.Name{Namespace: m.Namespace, Name: a.String()}, nil
}
