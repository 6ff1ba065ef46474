// SPDX-License-Identifier: Apache-2.0

package lb

import (
	"net/netip"
	"slices"
	"testing"

	"github.com/warren-mesh/warren/mesh"
)

func TestGather(t *testing.T) {
	svc := &mesh.Service{Namespace: "a", Name: "web"}
	n := svc.NamespacedName()
	v4, v6 := netip.MustParseAddr("10.0.0.1"), netip.MustParseAddr("fd00::1")
	w := func(uid string, ready bool, c mesh.Capture, p mesh.EndpointPorts, addrs ...netip.Addr) mesh.Change {
		return mesh.PutWorkload{Workload: &mesh.Workload{UID: uid, Ready: ready, Capture: c, Addresses: addrs,
			Services: map[mesh.Name]mesh.EndpointPorts{n: p}}}
	}
	ports := mesh.EndpointPorts{80: 8080}
	snap := mesh.NewSnapshot().With(
		w("both families", true, mesh.Captured, ports, v6, v4),
		w("other family", true, mesh.Outside, ports, v6),
		w("other port", true, mesh.Captured, mesh.EndpointPorts{81: 1}, v4),
		w("no address", true, mesh.Captured, ports),
		w("not ready", false, mesh.Captured, ports, v4),
		w("pending", true, mesh.Pending, ports, v4),
	)
	c := Gather(snap, svc, 80, v4, "n1", nil)
	got := map[string]string{}
	for _, e := range c.Usable {
		got[e.Workload.UID] = e.Target.String()
	}
	if len(got) != 2 || got["both families"] != "10.0.0.1:8080" || got["other family"] != "[fd00::1]:8080" {
		t.Errorf("usable: got %v", got)
	}
	if len(c.Pending) != 1 || c.Pending[0].Workload.UID != "pending" {
		t.Errorf("pending: got %v", c.Pending)
	}
	if c.Ready != 5 {
		t.Errorf("ready: got %d, want 5", c.Ready)
	}
	open := *svc
	open.PublishNotReady = true
	if c := Gather(snap, &open, 80, v4, "n1", nil); len(c.Usable) != 3 {
		t.Errorf("publishing not ready: got %d usable, want 3", len(c.Usable))
	}
}

// TestGatherNode: a Service that is local to each node has no endpoint elsewhere, and what is draining stands in for
// what is ready, where nothing is.
func TestGatherNode(t *testing.T) {
	n := mesh.Name{Namespace: "a", Name: "web"}
	here := &mesh.Workload{UID: "here", Node: "n1", Ready: true}
	there := &mesh.Workload{UID: "there", Node: "n2", Ready: true}
	leaving := &mesh.Workload{UID: "leaving", Node: "n2", Draining: true}
	pending := &mesh.Workload{UID: "pending", Node: "n1", Draining: true, Capture: mesh.Pending}
	gone := &mesh.Workload{UID: "gone", Node: "n1"}
	for _, tt := range []struct {
		name            string
		local           bool
		endpoints       []*mesh.Workload
		usable, pending []string
		ready           int
	}{
		{"cluster", false, []*mesh.Workload{here, there, leaving, gone}, []string{"here", "there"}, nil, 2},
		{"local", true, []*mesh.Workload{here, there, leaving, gone}, []string{"here"}, nil, 1},
		{"local, all elsewhere", true, []*mesh.Workload{there, leaving}, nil, nil, 0},
		{"draining instead", false, []*mesh.Workload{leaving, gone}, []string{"leaving"}, nil, 0},
		{"draining instead, and pending", false, []*mesh.Workload{leaving, pending}, []string{"leaving"}, []string{"pending"}, 0},
		{"local, draining here though one is ready there", true, []*mesh.Workload{there, pending}, nil, []string{"pending"}, 0},
	} {
		t.Run(tt.name, func(t *testing.T) {
			snap := mesh.NewSnapshot()
			for _, w := range tt.endpoints {
				w := *w
				w.Addresses, w.Services = []netip.Addr{netip.MustParseAddr("10.0.0.1")}, map[mesh.Name]mesh.EndpointPorts{n: {80: 8080}}
				snap = snap.With(mesh.PutWorkload{Workload: &w})
			}
			told := map[string]Standing{}
			c := Gather(snap, &mesh.Service{Namespace: "a", Name: "web", Local: tt.local}, 80, netip.Addr{}, "n1",
				func(e Endpoint, s Standing) { told[e.Workload.UID] = s })
			if got := uids(c.Usable); !slices.Equal(got, tt.usable) {
				t.Errorf("usable: got %v, want %v", got, tt.usable)
			}
			if got := uids(c.Pending); !slices.Equal(got, tt.pending) {
				t.Errorf("pending: got %v, want %v", got, tt.pending)
			}
			if c.Ready != tt.ready || len(told) != len(tt.endpoints) {
				t.Errorf("got %d ready, told %v", c.Ready, told)
			}
		})
	}
}

func uids(es []Endpoint) (out []string) {
	for _, e := range es {
		out = append(out, e.Workload.UID)
	}
	slices.Sort(out)
	return out
}

// TestKeep: a client keeps its endpoint while that is there, and all clients together use them all.
func TestKeep(t *testing.T) {
	var es []Endpoint
	for _, uid := range []string{"c//Pod/a/web-1", "c//Pod/a/web-2", "c//Pod/a/web-3", "c//Pod/a/web-4"} {
		es = append(es, Endpoint{Workload: &mesh.Workload{UID: uid}})
	}
	seen := map[string]int{}
	for i := range 200 {
		client := netip.AddrFrom4([4]byte{10, 0, 0, byte(i)})
		e := Keep(es, client)
		seen[e.Workload.UID]++
		if e.Workload != es[3].Workload && Keep(es[:3], client) != e {
			t.Errorf("%s moved although its endpoint stayed", client)
		}
	}
	for _, e := range es {
		if n := seen[e.Workload.UID]; n < 25 || n > 75 {
			t.Errorf("of 200 clients %d keep %s, want about 50: %v", n, e.Workload.UID, seen)
		}
	}
}

func TestChoose(t *testing.T) {
	es := []Endpoint{{Target: netip.MustParseAddrPort("10.0.0.1:1")}, {Target: netip.MustParseAddrPort("10.0.0.2:1")}}
	if got := Choose(es, func(n int) int { return n - 1 }); got != es[1] {
		t.Errorf("got %v, want the last", got)
	}
	seen := map[Endpoint]bool{}
	for range 200 {
		seen[Choose(es, nil)] = true
	}
	if len(seen) != 2 {
		t.Errorf("200 random choices saw %d of 2 endpoints", len(seen))
	}
}
