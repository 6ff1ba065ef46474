// SPDX-License-Identifier: Apache-2.0

package explain

import (
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/warren-mesh/warren/mesh"
	"github.com/warren-mesh/warren/mesh/explain"
	"github.com/warren-mesh/warren/mesh/reason"
	"github.com/warren-mesh/warren/ztunnel/admit"
	"github.com/warren-mesh/warren/ztunnel/authz"
	"github.com/warren-mesh/warren/ztunnel/route"
)

var now = time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)

// fate is what became of a connection.
type fate struct {
	verdict explain.Verdict
	reason  reason.Reason
	policy  string
}

// TestExplainIsWhatIsDecided compares, for thousands of random meshes, what is told with what the data path decides: with
// the index of policies, a random endpoint, and nobody listening.
func TestExplainIsWhatIsDecided(t *testing.T) {
	const cases = 10000
	var policies authz.Evaluator
	seen := map[string]int{}
	for seed := range uint64(cases) {
		d := dice{rand.New(rand.NewPCG(seed, 1))}
		snap, q := d.mesh(), d.query()
		e := Explainer{Node: "n1", Snapshot: func() *mesh.Snapshot { return snap }, Now: func() time.Time { return now }}
		a, err := e.Explain(q)
		if err != nil {
			if !errors.Is(err, ErrNotFound) {
				t.Fatalf("seed %d: %+v: %v", seed, q, err)
			}
			continue
		}
		var text strings.Builder
		if err := a.WriteText(&text); err != nil || !strings.Contains(text.String(), " -> ") {
			t.Fatalf("seed %d: text: %v", seed, err)
		}
		told, decided := map[string]fate{}, map[string]fate{}
		for _, o := range a.Outcomes {
			if o.Target == "" { // no endpoint
				continue
			}
			told[strings.TrimSpace(o.Endpoint+" "+o.Target)] = fate{o.Verdict, o.Reason, o.Policy}
			seen[fmt.Sprintf("%-6v %-8s %s", o.Capture.Captured, o.Verdict, o.Reason)]++
		}
		src, _ := findSource(snap, q.Source)
		to, _ := findDestination(snap, src, q)
		for _, dst := range to {
			for range 40 { // a service has few endpoints: each gets its turn
				if target, f := decide(snap, &policies, src, dst, hook(e, snap, src, dst)); target != "" {
					decided[target] = f
				}
			}
		}
		if !maps.Equal(told, decided) {
			t.Fatalf("seed %d: %+v\ntold    %+v\ndecided %+v\n%s", seed, q, told, decided, text.String())
		}
	}
	for _, k := range slices.Sorted(maps.Keys(seen)) {
		t.Logf("%6d %s", seen[k], k)
	}
	if len(seen) < 20 {
		t.Errorf("only %d kinds of outcome in %d cases", len(seen), cases)
	}
}

func hook(e Explainer, snap *mesh.Snapshot, src source, dst netip.AddrPort) explain.Capture {
	return (&run{Explainer: e, snap: snap, source: src}).kernel(dst)
}

// decide does what the kernel (as told), the source's ztunnel or the service proxy, and the destination's ztunnel do.
func decide(snap *mesh.Snapshot, p *authz.Evaluator, src source, dst netip.AddrPort, c explain.Capture) (target string, f fate) {
	switch {
	case !c.Captured && c.Reason.Kind() == reason.Drop:
		return dst.String(), fate{explain.Refused, c.Reason, ""}
	case !c.Captured && src.workload != nil && (dst.Addr().IsLoopback() || addressed(src.workload, dst.Addr())):
		return at(src.workload, dst), fate{explain.Allowed, c.Reason, ""}
	case !c.Captured:
		w := snap.WorkloadByAddr(dst.Addr())
		if svc := snap.ServiceByAddr(dst.Addr()); svc != nil {
			e, ok := proxied(snap, svc, dst)
			if !ok {
				return "", f
			}
			w, dst = e.workload, e.target
		}
		return at(w, dst), arrive(snap, p, src, w, dst, fate{explain.Allowed, c.Reason, ""})
	}
	d := route.Decide(snap, route.Query{Source: src.workload, SourcePod: src.workload.PodUID, Destination: dst, SameNode: src.workload.Node})
	f = fate{explain.Allowed, d.Reason, ""}
	switch {
	case d.Action == route.Refuse:
		f.verdict = explain.Refused
	case d.Action == route.Wait:
		f.verdict = explain.Waits
	case d.Action == route.Tunnel && (d.Service == nil || d.Service.Waypoint.IsZero()):
		from := src.from(d.Upstream.Addr())
		if !from.IsValid() {
			return at(d.Workload, d.Target), fate{explain.Refused, reason.ConnectFailure, ""}
		}
		a := admit.Stream(snap, p, snap.WorkloadByPod(d.Workload.PodUID), src.workload.Identity(), from, d.Upstream.Addr(), d.Authority)
		f = f.after(a)
	}
	return at(d.Workload, d.Target), f
}

// arrive is plain TCP at its destination.
func arrive(snap *mesh.Snapshot, p *authz.Evaluator, src source, w *mesh.Workload, dst netip.AddrPort, f fate) fate {
	from := src.from(dst.Addr())
	if w == nil || w == src.workload || w.HostNetwork || w.Capture != mesh.Captured || !from.IsValid() {
		return f
	}
	if r := reserved(dst.Port()); r != reason.None {
		return fate{explain.Refused, r, ""}
	}
	a := admit.Plaintext(snap, p, snap.WorkloadByPod(w.PodUID), w.PodUID, from, dst, now)
	f.reason = a.Reason
	return f.after(a)
}

func (f fate) after(a admit.Decision) fate {
	switch a.Action {
	case route.Refuse:
		f.verdict = explain.Refused
	case route.Wait:
		f.verdict = explain.Waits
	default:
		return f
	}
	f.reason = a.Reason
	if a.Judged && !a.Policy.Allowed && !admit.Decisive(a.Policy).IsZero() {
		f.policy = admit.Decisive(a.Policy).String()
	}
	return f
}

func at(w *mesh.Workload, target netip.AddrPort) string {
	if w == nil {
		return target.String()
	}
	return w.NamespacedName().String() + " " + target.String()
}

type proxiedTo struct {
	workload *mesh.Workload
	target   netip.AddrPort
}

// proxied is an endpoint as a service proxy that knows nothing of the mesh would choose it.
func proxied(snap *mesh.Snapshot, svc *mesh.Service, vip netip.AddrPort) (to proxiedTo, ok bool) {
	var all []proxiedTo
	for _, w := range snap.Endpoints(svc.NamespacedName()) {
		port := w.Services[svc.NamespacedName()][vip.Port()]
		a := addressOf(w.Addresses, family(vip.Addr()))
		if !a.IsValid() {
			a = addressOf(w.Addresses, 0)
		}
		if (w.Ready || svc.PublishNotReady) && port != 0 {
			all = append(all, proxiedTo{w, netip.AddrPortFrom(a, port)})
		}
	}
	if len(all) == 0 {
		return to, false
	}
	return all[rand.IntN(len(all))], true
}
