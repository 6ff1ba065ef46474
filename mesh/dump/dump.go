// SPDX-License-Identifier: Apache-2.0

// Package dump writes a snapshot in the camelCase JSON of ambient's /config_dump, so that tools made for it
// (istioctl ztunnel-config) read Warren's too. Fields ambient does not know come beside its own.
package dump

import (
	"cmp"
	"fmt"
	"net/netip"
	"slices"

	"github.com/warren-mesh/warren/mesh"
)

// Workload is one entry of "workloads".
type Workload struct {
	WorkloadIPs       []netip.Addr   `json:"workloadIps"`
	Protocol          string         `json:"protocol"` // HBONE or TCP
	UID               string         `json:"uid"`
	Name              string         `json:"name"`
	Namespace         string         `json:"namespace"`
	TrustDomain       string         `json:"trustDomain,omitempty"`
	ServiceAccount    string         `json:"serviceAccount"`
	WorkloadName      string         `json:"workloadName"`
	WorkloadType      string         `json:"workloadType"`
	CanonicalName     string         `json:"canonicalName"`
	CanonicalRevision string         `json:"canonicalRevision"`
	Network           string         `json:"network"`
	Node              string         `json:"node"`
	Status            string         `json:"status"` // Healthy or Unhealthy
	ClusterID         string         `json:"clusterId"`
	Services          []string       `json:"services,omitempty"`
	Policies          []string       `json:"authorizationPolicies,omitempty"`
	Capture           string         `json:"capture"`
	CaptureReason     string         `json:"captureReason,omitempty"`
	Except            []netip.Prefix `json:"except,omitempty"`
}

// Service is one entry of "services".
type Service struct {
	Name            string              `json:"name"`
	Namespace       string              `json:"namespace"`
	Hostname        string              `json:"hostname"`
	VIPs            []string            `json:"vips"` // network/address
	Ports           map[uint16]uint16   `json:"ports"`
	Endpoints       map[string]Endpoint `json:"endpoints"`
	SubjectAltNames []string            `json:"subjectAltNames,omitempty"`
	Waypoint        *Gateway            `json:"waypoint,omitempty"`
}

// Gateway is the waypoint of a service.
type Gateway struct {
	Destination string `json:"destination"` // namespace/host name
}

// Endpoint is one workload behind a service.
type Endpoint struct {
	WorkloadUID string            `json:"workloadUid"`
	Service     string            `json:"service"`
	Port        map[uint16]uint16 `json:"port"`
	Status      string            `json:"status"`
}

// Config is the mesh-wide configuration; ambient has no counterpart.
type Config struct {
	TrustDomain   string         `json:"trustDomain"`
	RootNamespace string         `json:"rootNamespace"`
	ClusterCIDRs  []netip.Prefix `json:"clusterCidrs"`
	Exceptions    []netip.Prefix `json:"exceptions,omitempty"`

	TrustDomainAliases []string  `json:"trustDomainAliases,omitempty"`
	MTLSStrict         bool      `json:"mtlsStrict"`
	SameNodeTLS        bool      `json:"sameNodeTls"`
	Drain              string    `json:"drain,omitempty"` // "" for what the process's flag says
	DropLabels         []string  `json:"dropLabels,omitempty"`
	AccessLog          AccessLog `json:"accessLog"`
	Tracing            *Tracing  `json:"tracing,omitempty"`
}

// AccessLog is which connections have a line, in which format; "" for the one the process's flag says.
type AccessLog struct {
	Mode   string `json:"mode"`
	Format string `json:"format,omitempty"`
}

// Tracing is where spans go.
type Tracing struct {
	OTLP          string  `json:"otlp,omitempty"`
	Zipkin        string  `json:"zipkin,omitempty"`
	SamplePercent float64 `json:"samplePercent"`
}

// Snapshot is a whole snapshot.
type Snapshot struct {
	Version   uint64     `json:"snapshotVersion"`
	Workloads []Workload `json:"workloads"`
	Services  []Service  `json:"services"`
	Policies  []Policy   `json:"policies"`
	Mesh      Config     `json:"mesh"`
}

// Of renders a snapshot, each list in a fixed order.
func Of(s *mesh.Snapshot) Snapshot {
	out := Snapshot{Version: s.Version(), Workloads: []Workload{}, Services: []Service{}, Policies: []Policy{}, Mesh: config(s.Config())}
	s.Workloads(func(w *mesh.Workload) bool { out.Workloads = append(out.Workloads, workload(w)); return true })
	s.Services(func(v *mesh.Service) bool { out.Services = append(out.Services, service(s, v)); return true })
	s.Policies(func(p *mesh.Policy) bool { out.Policies = append(out.Policies, policy(p)); return true })
	slices.SortFunc(out.Workloads, func(a, b Workload) int { return cmp.Compare(a.UID, b.UID) })
	slices.SortFunc(out.Services, func(a, b Service) int { return cmp.Compare(a.Namespace+"/"+a.Hostname, b.Namespace+"/"+b.Hostname) })
	slices.SortFunc(out.Policies, func(a, b Policy) int { return cmp.Compare(a.Namespace+"/"+a.Name, b.Namespace+"/"+b.Name) })
	return out
}

func config(c *mesh.Config) Config {
	out := Config{
		TrustDomain:   cmp.Or(c.TrustDomain, mesh.DefaultTrustDomain),
		RootNamespace: cmp.Or(c.RootNamespace, mesh.DefaultRootNamespace),
		ClusterCIDRs:  append([]netip.Prefix{}, c.ClusterCIDRs...),
		Exceptions:    c.Exceptions,

		TrustDomainAliases: c.TrustDomainAliases, MTLSStrict: c.MTLSStrict, SameNodeTLS: c.SameNodeTLS, DropLabels: c.DropLabels,
		AccessLog: AccessLog{Mode: c.AccessLog.Mode.String(), Format: c.AccessLog.Format.String()},
	}
	if c.Drain != 0 {
		out.Drain = c.DrainOr(0).String()
	}
	if t := c.Tracing; t.OTLP != "" || t.Zipkin != "" {
		out.Tracing = &Tracing{OTLP: t.OTLP, Zipkin: t.Zipkin, SamplePercent: t.SamplePercent}
	}
	return out
}

func workload(w *mesh.Workload) Workload {
	out := Workload{
		WorkloadIPs: append([]netip.Addr{}, w.Addresses...), Protocol: "TCP",
		UID: w.UID, Name: w.Name, Namespace: w.Namespace,
		TrustDomain: w.TrustDomain, ServiceAccount: w.ServiceAccount,
		WorkloadName: w.WorkloadName, WorkloadType: w.WorkloadType,
		CanonicalName: w.CanonicalName, CanonicalRevision: w.CanonicalRevision,
		Network: w.Network, Node: w.Node, Status: health(w), ClusterID: w.Cluster,
		Capture: w.Capture.String(), CaptureReason: w.CaptureReason, Except: w.Except,
	}
	if w.Capture == mesh.Captured {
		out.Protocol = "HBONE"
	}
	for n := range w.Services {
		out.Services = append(out.Services, n.String())
	}
	slices.Sort(out.Services)
	for _, n := range w.Policies {
		out.Policies = append(out.Policies, n.String())
	}
	return out
}

func health(w *mesh.Workload) string {
	if w.Ready {
		return "Healthy"
	}
	return "Unhealthy"
}

func service(s *mesh.Snapshot, v *mesh.Service) Service {
	out := Service{
		Name: v.Name, Namespace: v.Namespace, Hostname: v.Hostname, VIPs: []string{},
		Ports: map[uint16]uint16{}, Endpoints: map[string]Endpoint{}, SubjectAltNames: v.SubjectAltNames,
	}
	if n := v.Waypoint; !n.IsZero() {
		out.Waypoint = &Gateway{Destination: n.String()}
		if w := s.Service(n); w != nil {
			out.Waypoint.Destination = n.Namespace + "/" + w.Hostname
		}
	}
	for _, a := range v.Addresses {
		out.VIPs = append(out.VIPs, fmt.Sprintf("/%s", a))
	}
	for _, p := range v.Ports {
		out.Ports[p.Port] = p.TargetPort
	}
	for _, w := range s.Endpoints(v.NamespacedName()) {
		out.Endpoints[w.UID] = Endpoint{
			WorkloadUID: w.UID, Service: v.Namespace + "/" + v.Hostname,
			Port: w.Services[v.NamespacedName()], Status: health(w),
		}
	}
	return out
}
