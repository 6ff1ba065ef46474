// SPDX-License-Identifier: Apache-2.0

package wds

import (
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/warren-mesh/warren/mesh"
	"github.com/warren-mesh/warren/mesh/wds/warrenpb"
	"github.com/warren-mesh/warren/mesh/wds/workloadpb"
)

// errNoUID refuses a resource that nothing could be keyed by.
var errNoUID = errors.New("uid is empty")

// FromWorkload returns the message for w. Service host names end in the cluster's domain.
func FromWorkload(w *mesh.Workload, domain string) *workloadpb.Workload {
	m := &workloadpb.Workload{
		Uid: w.UID, Name: w.Name, Namespace: w.Namespace, Node: w.Node,
		Network: w.Network, ClusterId: w.Cluster,
		TrustDomain: w.TrustDomain, ServiceAccount: w.ServiceAccount,
		CanonicalName: w.CanonicalName, CanonicalRevision: w.CanonicalRevision,
		WorkloadName: w.WorkloadName, WorkloadType: workloadKinds[w.WorkloadType],
		Services: fromServices(w.Services, domain),
	}
	for _, a := range w.Addresses {
		m.Addresses = append(m.Addresses, a.Unmap().AsSlice())
	}
	for _, p := range w.Policies {
		m.AuthorizationPolicies = append(m.AuthorizationPolicies, p.String())
	}
	// A reader that doesn't know our extension must not send plaintext to what is only pending.
	if w.Capture == mesh.Captured || w.Capture == mesh.Pending {
		m.TunnelProtocol = workloadpb.TunnelProtocol_HBONE
	}
	if !w.Ready {
		m.Status = workloadpb.WorkloadStatus_UNHEALTHY
	}
	if w.HostNetwork {
		m.NetworkMode = workloadpb.NetworkMode_HOST_NETWORK
	}
	if w.Region != "" || w.Zone != "" {
		m.Locality = &workloadpb.Locality{Region: w.Region, Zone: w.Zone}
	}
	m.Extensions = pack(workloadExtension(w))
	return m
}

func fromServices(services map[mesh.Name]mesh.EndpointPorts, domain string) map[string]*workloadpb.PortList {
	if len(services) == 0 {
		return nil
	}
	out := make(map[string]*workloadpb.PortList, len(services))
	for n, ports := range services {
		l := &workloadpb.PortList{}
		for _, p := range slices.Sorted(maps.Keys(ports)) {
			l.Ports = append(l.Ports, &workloadpb.Port{ServicePort: uint32(p), TargetPort: uint32(ports[p])})
		}
		out[n.Namespace+"/"+hostname(n, domain)] = l
	}
	return out
}

// ToWorkload returns the workload a message stands for. Without Warren's extension (another control plane)
// HBONE means captured, NONE means outside the mesh, and the sidecar's own protocol, which nothing here
// speaks, means that no connection should be made. A waypoint bound to a workload is refused rather than
// gone around.
func ToWorkload(m *workloadpb.Workload) (*mesh.Workload, error) {
	if m.GetUid() == "" {
		return nil, errNoUID
	}
	if m.Waypoint != nil {
		return nil, errors.New("waypoint of a workload is not supported (bind it to the service)")
	}
	w := &mesh.Workload{
		UID: m.Uid, Name: m.Name, Namespace: m.Namespace, Node: m.Node,
		Network: m.Network, Cluster: m.ClusterId,
		TrustDomain: m.TrustDomain, ServiceAccount: m.ServiceAccount,
		CanonicalName: m.CanonicalName, CanonicalRevision: m.CanonicalRevision,
		WorkloadName: m.WorkloadName, WorkloadType: strings.ToLower(m.WorkloadType.String()),
		HostNetwork: m.NetworkMode == workloadpb.NetworkMode_HOST_NETWORK,
		Ready:       m.Status == workloadpb.WorkloadStatus_HEALTHY,
		Region:      m.GetLocality().GetRegion(), Zone: m.GetLocality().GetZone(),
	}
	if err := toWorkloadLists(m, w); err != nil {
		return nil, err
	}
	x := &warrenpb.WorkloadExtension{}
	own, err := unpack(m.Extensions, x)
	switch {
	case err != nil:
		return nil, err
	case own:
		return w, applyExtension(w, x)
	default:
		applyForeign(w, m.TunnelProtocol)
		return w, nil
	}
}

func toWorkloadLists(m *workloadpb.Workload, w *mesh.Workload) error {
	for _, b := range m.Addresses {
		a, err := parseAddr(b)
		if err != nil {
			return err
		}
		w.Addresses = append(w.Addresses, a)
	}
	for _, s := range m.AuthorizationPolicies {
		n, err := mesh.ParseName(s)
		if err != nil {
			return fmt.Errorf("policy: %w", err)
		}
		w.Policies = append(w.Policies, n)
	}
	for key, l := range m.Services {
		n, err := parseServiceKey(key)
		if err != nil {
			return err
		}
		ports, err := toPorts(l)
		if err != nil {
			return fmt.Errorf("service %s: %w", key, err)
		}
		if w.Services == nil {
			w.Services = make(map[mesh.Name]mesh.EndpointPorts, len(m.Services))
		}
		w.Services[n] = ports
	}
	return nil
}

func toPorts(l *workloadpb.PortList) (mesh.EndpointPorts, error) {
	out := make(mesh.EndpointPorts, len(l.GetPorts()))
	for _, p := range l.GetPorts() {
		from, err := parsePort(p.GetServicePort())
		if err != nil {
			return nil, err
		}
		to, err := parsePort(p.GetTargetPort())
		if err != nil {
			return nil, err
		}
		if from != 0 && to != 0 { // a target of 0: this workload has no port of that name
			out[from] = to
		}
	}
	return out, nil
}
