// SPDX-License-Identifier: Apache-2.0

package wds

import (
	"fmt"
	"math/rand/v2"
	"net/netip"
	"time"

	"github.com/warren-mesh/warren/mesh"
)

// maker makes random mesh values: every field set or not, independently.
type maker struct{ *rand.Rand }

func newMaker(seed uint64) maker { return maker{rand.New(rand.NewPCG(seed, 1))} }

func (r maker) word() string  { return fmt.Sprintf("w%d", r.IntN(1000)) }
func (r maker) coin() bool    { return r.IntN(2) == 0 }
func (r maker) port() uint16  { return uint16(1 + r.IntN(65535)) }
func (r maker) maybe() string { return []string{"", r.word()}[r.IntN(2)] }
func (r maker) kind() string {
	return pick(r, "", "deployment", "statefulset", "daemonset", "job", "cronjob", "pod")
}
func (r maker) name() mesh.Name { return mesh.Name{Namespace: r.word(), Name: r.word()} }

func pick[T any](r maker, of ...T) T { return of[r.IntN(len(of))] }

// some returns nil, or one to three values.
func some[T any](r maker, f func() T) []T {
	var out []T
	for range r.IntN(4) {
		out = append(out, f())
	}
	return out
}

func (r maker) addr() netip.Addr {
	if r.coin() {
		return netip.AddrFrom4([4]byte{10, byte(r.IntN(256)), byte(r.IntN(256)), byte(r.IntN(256))})
	}
	a := netip.MustParseAddr("fd00::").As16()
	a[15], a[14] = byte(r.IntN(256)), byte(r.IntN(256))
	return netip.AddrFrom16(a)
}

func (r maker) prefix() netip.Prefix {
	a := r.addr()
	p, err := a.Prefix(r.IntN(a.BitLen() + 1))
	if err != nil {
		panic(err)
	}
	return p
}

func (r maker) workload() *mesh.Workload {
	w := &mesh.Workload{
		UID: "c//Pod/" + r.word() + "/" + r.word(), PodUID: r.maybe(), Namespace: r.word(), Name: r.word(),
		Addresses: some(r, r.addr), Node: r.maybe(), TrustDomain: r.maybe(), ServiceAccount: r.maybe(),
		Capture:       pick(r, mesh.Outside, mesh.Captured, mesh.ReadyBeforeEnrolled, mesh.Pending),
		CaptureReason: r.maybe(), CapturedRunning: r.coin(), HostNetwork: r.coin(), Ready: r.coin(), Draining: r.coin(), Except: some(r, r.prefix),
		WorkloadName: r.maybe(), WorkloadType: r.kind(), CanonicalName: r.maybe(), CanonicalRevision: r.maybe(),
		Cluster: r.maybe(), Network: r.maybe(), Region: r.maybe(), Zone: r.maybe(), Policies: some(r, r.name),
	}
	if w.Capture == mesh.Captured && r.coin() {
		w.CapturedAt = time.Unix(1700000000+r.Int64N(1e6), r.Int64N(1e9)).UTC()
	}
	for range r.IntN(3) {
		if w.Services == nil {
			w.Services = make(map[mesh.Name]mesh.EndpointPorts)
		}
		ports := make(mesh.EndpointPorts)
		for range r.IntN(3) {
			ports[r.port()] = r.port()
		}
		n := r.name()
		if r.coin() {
			n.Name += ".example.com" // a service outside Kubernetes
		}
		w.Services[n] = ports
	}
	return w
}

func (r maker) service() *mesh.Service {
	n := r.name()
	s := &mesh.Service{
		Namespace: n.Namespace, Name: n.Name, Hostname: hostname(n, "example.org"),
		Addresses: some(r, r.addr), SubjectAltNames: some(r, r.word), PublishNotReady: r.coin(), Local: r.coin(), Sticky: r.coin(),
	}
	if r.coin() {
		s.Waypoint = r.name()
	}
	s.Ports = some(r, func() mesh.ServicePort {
		return mesh.ServicePort{
			Name: r.maybe(), Port: r.port(), TargetPort: pick(r, 0, r.port()),
			AppProtocol: pick(r, "", "http", "kubernetes.io/h2c", "grpc", "mysql"),
		}
	})
	return s
}

func (r maker) policy() *mesh.Policy {
	return &mesh.Policy{
		Name:  r.name(),
		Scope: pick(r, mesh.ScopeMesh, mesh.ScopeNamespace, mesh.ScopeWorkload), Action: pick(r, mesh.Allow, mesh.Deny, mesh.Audit),
		DryRun: r.coin(), Strict: r.coin(),
		Rules: some(r, func() mesh.Rule {
			return mesh.Rule{Clauses: some(r, func() mesh.Clause { return mesh.Clause{Matches: some(r, r.match)} })}
		}),
	}
}

func (r maker) match() mesh.Match {
	text := func() mesh.StringMatch {
		k := pick(r, mesh.MatchExact, mesh.MatchPrefix, mesh.MatchSuffix, mesh.MatchPresence)
		if k == mesh.MatchPresence {
			return mesh.StringMatch{Kind: k}
		}
		return mesh.StringMatch{Kind: k, Value: r.maybe()}
	}
	return mesh.Match{
		Namespaces: some(r, text), NotNamespaces: some(r, text),
		Principals: some(r, text), NotPrincipals: some(r, text),
		ServiceAccounts: some(r, r.name), NotServiceAccounts: some(r, r.name),
		SourceIPs: some(r, r.prefix), NotSourceIPs: some(r, r.prefix),
		DestinationIPs: some(r, r.prefix), NotDestinationIPs: some(r, r.prefix),
		DestinationPorts: some(r, r.port), NotDestinationPorts: some(r, r.port),
	}
}

func (r maker) config() *mesh.Config {
	return &mesh.Config{
		TrustDomain: r.maybe(), RootNamespace: r.maybe(), ClusterCIDRs: some(r, r.prefix), Exceptions: some(r, r.prefix),
		TrustDomainAliases: some(r, r.word), DropLabels: some(r, r.word),
		MTLSStrict: r.coin(), SameNodeTLS: r.coin(), Drain: pick(r, -1, 0, time.Second, time.Minute),
		AccessLog: mesh.AccessLog{Mode: mesh.AccessLogMode(r.IntN(3)), Format: mesh.AccessLogFormat(r.IntN(3))},
		Tracing:   mesh.Tracing{OTLP: r.maybe(), Zipkin: r.maybe(), SamplePercent: float64(r.IntN(101))},
	}
}
