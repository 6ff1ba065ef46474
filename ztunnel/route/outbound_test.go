// SPDX-License-Identifier: Apache-2.0

package route

import (
	"net/netip"
	"slices"
	"testing"

	"github.com/warren-mesh/warren/mesh"
	"github.com/warren-mesh/warren/mesh/reason"
)

var (
	addr  = netip.MustParseAddr
	at    = netip.MustParseAddrPort
	first = func(int) int { return 0 }
)

func svcName(n string) mesh.Name { return mesh.Name{Namespace: "shop", Name: n} }

func pod(name, ip string, c mesh.Capture, opts ...func(*mesh.Workload)) *mesh.Workload {
	w := &mesh.Workload{UID: "c//Pod/shop/" + name, PodUID: "uid-" + name, Namespace: "shop", Name: name, ServiceAccount: name,
		Addresses: []netip.Addr{addr(ip)}, Node: "far", Capture: c, Ready: true, Services: map[mesh.Name]mesh.EndpointPorts{}}
	for _, o := range opts {
		o(w)
	}
	return w
}

func serves(svc string, port, target uint16) func(*mesh.Workload) {
	return func(w *mesh.Workload) { w.Services[svcName(svc)] = mesh.EndpointPorts{port: target} }
}

func service(name, vip string, port uint16, opts ...func(*mesh.Service)) *mesh.Service {
	s := &mesh.Service{Namespace: "shop", Name: name, Hostname: name + ".shop.svc.cluster.local", Ports: []mesh.ServicePort{{Port: port}}}
	if vip != "" {
		s.Addresses = []netip.Addr{addr(vip)}
	}
	for _, o := range opts {
		o(s)
	}
	return s
}

func snapshot(objects ...any) *mesh.Snapshot {
	s := mesh.NewSnapshot().With(mesh.PutConfig{Config: &mesh.Config{
		ClusterCIDRs: []netip.Prefix{netip.MustParsePrefix("10.0.0.0/8"), netip.MustParsePrefix("fd00::/8")},
		Exceptions:   []netip.Prefix{netip.MustParsePrefix("10.99.0.0/16")},
	}})
	for _, o := range objects {
		switch o := o.(type) {
		case *mesh.Workload:
			s = s.With(mesh.PutWorkload{Workload: o})
		case *mesh.Service:
			s = s.With(mesh.PutService{Service: o})
		}
	}
	return s
}

func TestDecide(t *testing.T) {
	client := pod("client", "10.1.0.1", mesh.Captured, func(w *mesh.Workload) {
		w.Node, w.Except = "near", []netip.Prefix{netip.MustParsePrefix("10.1.0.200/32")}
	})
	ready := func(v bool) func(*mesh.Workload) { return func(w *mesh.Workload) { w.Ready = v } }
	node := func(n string) func(*mesh.Workload) { return func(w *mesh.Workload) { w.Node = n } }
	tests := []struct {
		name     string
		objects  []any
		dst      string
		unknown  bool // the source
		action   Action
		reason   reason.Reason
		upstream string
		auth     string
		need     Need
	}{
		{name: "a captured pod: HBONE only", objects: []any{pod("web", "10.1.0.2", mesh.Captured)}, dst: "10.1.0.2:80",
			action: Tunnel, reason: reason.Tunnel, upstream: "10.1.0.2:15008", auth: "10.1.0.2:80"},
		{name: "IPv6", objects: []any{pod("web", "fd00::2", mesh.Captured)}, dst: "[fd00::2]:80",
			action: Tunnel, reason: reason.Tunnel, upstream: "[fd00::2]:15008", auth: "[fd00::2]:80"},
		{name: "a v4-mapped destination", objects: []any{pod("web", "10.1.0.2", mesh.Captured)}, dst: "[::ffff:10.1.0.2]:80",
			action: Tunnel, reason: reason.Tunnel, upstream: "10.1.0.2:15008", auth: "10.1.0.2:80"},
		{name: "a captured pod on this node", objects: []any{pod("web", "10.1.0.2", mesh.Captured, node("near"))}, dst: "10.1.0.2:80",
			action: Tunnel, reason: reason.SameNode, upstream: "10.1.0.2:15008", auth: "10.1.0.2:80"},
		{name: "a captured pod without identity", objects: []any{pod("web", "10.1.0.2", mesh.Captured, func(w *mesh.Workload) { w.ServiceAccount = "" })}, dst: "10.1.0.2:80",
			action: Refuse, reason: reason.IdentityMismatch},
		{name: "a pod outside the mesh", objects: []any{pod("web", "10.1.0.2", mesh.Outside)}, dst: "10.1.0.2:80",
			action: Passthrough, reason: reason.PassthroughNotEnrolled, upstream: "10.1.0.2:80"},
		{name: "a pod ready before it was enrolled", objects: []any{pod("web", "10.1.0.2", mesh.ReadyBeforeEnrolled)}, dst: "10.1.0.2:80",
			action: Passthrough, reason: reason.PassthroughBeforeEnrolled, upstream: "10.1.0.2:80"},
		{name: "an enrolled pod that is not captured", objects: []any{pod("web", "10.1.0.2", mesh.Pending)}, dst: "10.1.0.2:80",
			action: Wait, reason: reason.DestinationNotCaptured, need: Need{Kind: NeedCapture, UID: "c//Pod/shop/web"}},
		{name: "an address of the cluster nobody explains", dst: "10.1.0.77:80",
			action: Wait, reason: reason.DestinationUnknown, need: Need{Kind: NeedAddress, Addr: addr("10.1.0.77")}},
		{name: "an IPv6 address of the cluster nobody explains", dst: "[fd00::77]:80",
			action: Wait, reason: reason.DestinationUnknown, need: Need{Kind: NeedAddress, Addr: addr("fd00::77")}},
		{name: "an excepted address of the cluster", dst: "10.99.0.1:80", action: Passthrough, reason: reason.Excepted, upstream: "10.99.0.1:80"},
		{name: "an address of the cluster that the source excepts", dst: "10.1.0.200:80", action: Passthrough, reason: reason.Excepted, upstream: "10.1.0.200:80"},
		{name: "outside the cluster", dst: "192.0.2.1:443", action: Passthrough, reason: reason.PassthroughOutsideCluster, upstream: "192.0.2.1:443"},
		{name: "a node's address, though a host-network pod has it", objects: []any{pod("proxy", "192.0.2.9", mesh.Outside, func(w *mesh.Workload) { w.HostNetwork = true })},
			dst: "192.0.2.9:10250", action: Passthrough, reason: reason.PassthroughOutsideCluster, upstream: "192.0.2.9:10250"},
		{name: "the source is unknown", unknown: true, dst: "10.1.0.2:80", action: Wait, reason: reason.SourceUnknown, need: Need{Kind: NeedPod, UID: "uid-client"}},
		{name: "the source is unknown, the destination outside", unknown: true, dst: "192.0.2.1:80", action: Wait, reason: reason.SourceUnknown, need: Need{Kind: NeedPod, UID: "uid-client"}},
		{name: "loopback and a mesh port", dst: "127.0.0.1:15001", action: Refuse, reason: reason.RecursiveCall},
		{name: "IPv6 loopback and a mesh port", dst: "[::1]:15008", action: Refuse, reason: reason.RecursiveCall},
		{name: "itself and a mesh port", objects: []any{client}, dst: "10.1.0.1:15006", action: Refuse, reason: reason.RecursiveCall},
		{name: "a captured pod's HBONE port", objects: []any{pod("web", "10.1.0.2", mesh.Captured)}, dst: "10.1.0.2:15008", action: Refuse, reason: reason.RecursiveCall},
		{name: "a captured pod's capture range", objects: []any{pod("web", "10.1.0.2", mesh.Captured)}, dst: "10.1.0.2:61063", action: Refuse, reason: reason.RecursiveCall},
		{name: "an outside pod's port 15008 is an application's", objects: []any{pod("web", "10.1.0.2", mesh.Outside)}, dst: "10.1.0.2:15008",
			action: Passthrough, reason: reason.PassthroughNotEnrolled, upstream: "10.1.0.2:15008"},

		{name: "a service: port mapped", objects: []any{service("web", "10.96.0.1", 80), pod("web", "10.1.0.2", mesh.Captured, serves("web", 80, 8080))}, dst: "10.96.0.1:80",
			action: Tunnel, reason: reason.Tunnel, upstream: "10.1.0.2:15008", auth: "10.1.0.2:8080"},
		{name: "a service without that port", objects: []any{service("web", "10.96.0.1", 80), pod("web", "10.1.0.2", mesh.Captured, serves("web", 80, 8080))}, dst: "10.96.0.1:81",
			action: Refuse, reason: reason.NoSuchPort},
		{name: "a service whose endpoints do not serve the port", objects: []any{service("web", "10.96.0.1", 80), pod("web", "10.1.0.2", mesh.Captured, serves("web", 81, 8080))}, dst: "10.96.0.1:80",
			action: Refuse, reason: reason.NoSuchPort},
		{name: "a service without endpoints", objects: []any{service("web", "10.96.0.1", 80)}, dst: "10.96.0.1:80", action: Refuse, reason: reason.NoHealthyEndpoint},
		{name: "a service whose endpoint is not ready", objects: []any{service("web", "10.96.0.1", 80), pod("web", "10.1.0.2", mesh.Captured, serves("web", 80, 8080), ready(false))}, dst: "10.96.0.1:80",
			action: Refuse, reason: reason.NoHealthyEndpoint},
		{name: "a service that publishes what is not ready", objects: []any{service("web", "10.96.0.1", 80, func(s *mesh.Service) { s.PublishNotReady = true }), pod("web", "10.1.0.2", mesh.Captured, serves("web", 80, 8080), ready(false))},
			dst: "10.96.0.1:80", action: Tunnel, reason: reason.Tunnel, upstream: "10.1.0.2:15008", auth: "10.1.0.2:8080"},
		{name: "a service whose endpoint is the client itself", objects: []any{service("self", "10.96.0.2", 80), pod("client", "10.1.0.1", mesh.Captured, serves("self", 80, 8080), node("near"))},
			dst: "10.96.0.2:80", action: Tunnel, reason: reason.SameNode, upstream: "10.1.0.1:15008", auth: "10.1.0.1:8080"},
		{name: "a headless service is its pods", objects: []any{service("db", "", 5432), pod("db-0", "10.1.0.3", mesh.Captured, serves("db", 5432, 5432))}, dst: "10.1.0.3:5432",
			action: Tunnel, reason: reason.Tunnel, upstream: "10.1.0.3:15008", auth: "10.1.0.3:5432"},
		{name: "a service: endpoints not captured are not chosen", objects: []any{service("web", "10.96.0.1", 80), pod("a", "10.1.0.2", mesh.Pending, serves("web", 80, 8080)), pod("b", "10.1.0.3", mesh.Captured, serves("web", 80, 8080))},
			dst: "10.96.0.1:80", action: Tunnel, reason: reason.Tunnel, upstream: "10.1.0.3:15008", auth: "10.1.0.3:8080"},
		{name: "a service: only endpoints that are not captured", objects: []any{service("web", "10.96.0.1", 80), pod("a", "10.1.0.2", mesh.Pending, serves("web", 80, 8080))},
			dst: "10.96.0.1:80", action: Wait, reason: reason.DestinationNotCaptured, need: Need{Kind: NeedCapture, UID: "c//Pod/shop/a"}},
		{name: "a service with an endpoint outside the mesh", objects: []any{service("ext", "10.96.0.3", 443), pod("vm", "192.0.2.7", mesh.Outside, serves("ext", 443, 8443))},
			dst: "10.96.0.3:443", action: Passthrough, reason: reason.PassthroughNotEnrolled, upstream: "192.0.2.7:8443"},
		{name: "a service with a host-network endpoint", objects: []any{service("api", "10.96.0.4", 443), pod("api", "192.0.2.8", mesh.Pending, serves("api", 443, 6443), func(w *mesh.Workload) { w.HostNetwork = true })},
			dst: "10.96.0.4:443", action: Passthrough, reason: reason.PassthroughNotEnrolled, upstream: "192.0.2.8:6443"},
		{name: "a service local to each node: none here", objects: []any{service("web", "10.96.0.1", 80, func(s *mesh.Service) { s.Local = true }), pod("web", "10.1.0.2", mesh.Captured, serves("web", 80, 8080), node("far"))},
			dst: "10.96.0.1:80", action: Refuse, reason: reason.NoHealthyEndpoint},
		{name: "a service whose only endpoint drains", objects: []any{service("web", "10.96.0.1", 80), pod("web", "10.1.0.2", mesh.Captured, serves("web", 80, 8080), ready(false), func(w *mesh.Workload) { w.Draining = true })},
			dst: "10.96.0.1:80", action: Tunnel, reason: reason.Tunnel, upstream: "10.1.0.2:15008", auth: "10.1.0.2:8080"},
		{name: "a bound waypoint", objects: []any{service("web", "10.96.0.1", 80, func(s *mesh.Service) { s.Waypoint = svcName("wp") }), pod("wp", "10.1.0.9", mesh.Outside, serves("wp", 15008, 15008))},
			dst: "10.96.0.1:80", action: Tunnel, reason: reason.Tunnel, upstream: "10.1.0.9:15008", auth: "10.96.0.1:80"},
		{name: "a bound waypoint that is not ready: no way around", objects: []any{service("web", "10.96.0.1", 80, func(s *mesh.Service) { s.Waypoint = svcName("wp") }), pod("web", "10.1.0.2", mesh.Captured, serves("web", 80, 8080))},
			dst: "10.96.0.1:80", action: Refuse, reason: reason.NoHealthyEndpoint},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			q := Query{Source: client, SourcePod: "uid-client", Destination: at(tt.dst), Pick: first, SameNode: "near"}
			if tt.unknown {
				q.Source = nil
			}
			d := Decide(snapshot(tt.objects...), q)
			if d.Action != tt.action || d.Reason != tt.reason || d.Need != tt.need || d.Authority != tt.auth {
				t.Errorf("got %v %v, need %v, authority %q; want %v %v, need %v, authority %q",
					d.Action, d.Reason, d.Need, d.Authority, tt.action, tt.reason, tt.need, tt.auth)
			}
			if up := d.Upstream; (tt.upstream == "") == up.IsValid() || up.IsValid() && up != at(tt.upstream) {
				t.Errorf("upstream: got %v, want %q", up, tt.upstream)
			}
			if (d.Action == Tunnel) != (len(d.Expected) > 0) {
				t.Errorf("expected identities: got %v for %v", d.Expected, d.Action)
			}
			if d.Action == Wait && d.Expired().Action != Refuse {
				t.Error("an expired wait is no refusal")
			}
		})
	}
}

func TestExpected(t *testing.T) {
	svc := service("web", "10.96.0.1", 80, func(s *mesh.Service) { s.SubjectAltNames = []string{"spiffe://other/ns/x/sa/y"} })
	web := pod("web", "10.1.0.2", mesh.Captured, serves("web", 80, 8080))
	snap := snapshot(svc, web)
	client := pod("client", "10.1.0.1", mesh.Captured)
	own := "spiffe://cluster.local/ns/shop/sa/web"
	if d := Decide(snap, Query{Source: client, Destination: at("10.96.0.1:80")}); !slices.Equal(d.Expected, []string{own, svc.SubjectAltNames[0]}) || d.Service != svc || d.Workload != web {
		t.Errorf("by service: got %v, %v, %v", d.Expected, d.Service, d.Workload)
	}
	if d := Decide(snap, Query{Source: client, Destination: at("10.1.0.2:80")}); !slices.Equal(d.Expected, []string{own}) || d.Service != nil {
		t.Errorf("by address: got %v, %v", d.Expected, d.Service)
	}
}

func TestRandomEndpoint(t *testing.T) {
	snap := snapshot(service("web", "10.96.0.1", 80), pod("a", "10.1.0.2", mesh.Captured, serves("web", 80, 1)), pod("b", "10.1.0.3", mesh.Captured, serves("web", 80, 2)))
	seen := map[netip.AddrPort]int{}
	for range 200 {
		seen[Decide(snap, Query{Source: pod("client", "10.1.0.1", mesh.Captured), Destination: at("10.96.0.1:80")}).Target]++
	}
	if len(seen) != 2 {
		t.Errorf("200 connections went to %v, want both endpoints", seen)
	}
}

func TestSticky(t *testing.T) {
	snap := snapshot(service("web", "10.96.0.1", 80, func(s *mesh.Service) { s.Sticky = true }), pod("a", "10.1.0.2", mesh.Captured, serves("web", 80, 1)), pod("b", "10.1.0.3", mesh.Captured, serves("web", 80, 2)))
	seen := map[netip.AddrPort]int{}
	for range 40 {
		seen[Decide(snap, Query{Source: pod("client", "10.1.0.1", mesh.Captured), Destination: at("10.96.0.1:80")}).Target]++
	}
	if len(seen) != 1 {
		t.Errorf("one client's connections went to %v, want one endpoint", seen)
	}
}

// TestInProcess: only what goes to a pod of the deciding node may stay in its process, unless the mesh wants TLS there.
func TestInProcess(t *testing.T) {
	inside := Decision{Action: Tunnel, Reason: reason.SameNode}
	for _, tt := range []struct {
		name   string
		change func(*Decision, *mesh.Config)
		want   bool
	}{
		{"a pod of this node", func(*Decision, *mesh.Config) {}, true},
		{"by a service", func(d *Decision, _ *mesh.Config) { d.Service = &mesh.Service{} }, true},
		{"a pod of another node", func(d *Decision, _ *mesh.Config) { d.Reason = reason.Tunnel }, false},
		{"refused", func(d *Decision, _ *mesh.Config) { d.Action = Refuse }, false},
		{"a waypoint", func(d *Decision, _ *mesh.Config) { d.Service = &mesh.Service{Waypoint: svcName("wp")} }, false},
		{"TLS wanted", func(_ *Decision, c *mesh.Config) { c.SameNodeTLS = true }, false},
	} {
		d, c := inside, mesh.Config{}
		if tt.change(&d, &c); d.InProcess(&c) != tt.want {
			t.Errorf("%s: in process %v, want %v", tt.name, !tt.want, tt.want)
		}
	}
}
