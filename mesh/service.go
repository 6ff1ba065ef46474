// SPDX-License-Identifier: Apache-2.0

package mesh

import "net/netip"

// Service is a named set of endpoints behind virtual addresses. Immutable. Its endpoints are the workloads
// that name it in their Services; see Snapshot.Endpoints.
type Service struct {
	Namespace string
	Name      string
	// Hostname is "<name>.<namespace>.svc.<cluster domain>".
	Hostname string
	// Addresses are the virtual addresses; empty for a headless service.
	Addresses []netip.Addr
	Ports     []ServicePort
	// SubjectAltNames are further identities (SPIFFE URIs) its endpoints may show.
	SubjectAltNames []string
	// PublishNotReady: endpoints that are not Ready may be chosen as well.
	PublishNotReady bool
	// Local: only endpoints on the client's own node may be chosen (internalTrafficPolicy: Local).
	Local bool
	// Sticky: a client keeps its endpoint for as long as the endpoints stay (sessionAffinity: ClientIP).
	Sticky bool
	// Waypoint is the bound waypoint's service; zero when there is none.
	Waypoint Name
}

// ServicePort is one port of a service.
type ServicePort struct {
	Name string
	Port uint16
	// TargetPort is the endpoints' port where all have the same; zero when it differs by endpoint.
	TargetPort uint16
	// AppProtocol as on the Kubernetes port; may be empty.
	AppProtocol string
}

// NamespacedName is the service's namespace and name.
func (s *Service) NamespacedName() Name { return Name{Namespace: s.Namespace, Name: s.Name} }

// Port returns the service's port p.
func (s *Service) Port(p uint16) (ServicePort, bool) {
	for _, sp := range s.Ports {
		if sp.Port == p {
			return sp, true
		}
	}
	return ServicePort{}, false
}
