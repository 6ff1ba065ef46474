// SPDX-License-Identifier: Apache-2.0

package lb

import (
	"net/netip"
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
	c := Gather(snap, svc, 80, v4, nil)
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
	if c := Gather(snap, &open, 80, v4, nil); len(c.Usable) != 3 {
		t.Errorf("publishing not ready: got %d usable, want 3", len(c.Usable))
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
