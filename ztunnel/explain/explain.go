// SPDX-License-Identifier: Apache-2.0

// Package explain tells what becomes of a connection, and why, by asking the functions that decide about real ones
// (route, lb, admit, authz) and listening to what they consider. It decides nothing itself; only the rules of the
// kernel programs, which can't be called, are told here in Go.
package explain

import (
	"errors"
	"fmt"
	"net/netip"
	"strings"
	"time"

	"github.com/warren-mesh/warren/mesh"
	"github.com/warren-mesh/warren/mesh/explain"
	"github.com/warren-mesh/warren/mesh/reason"
	"github.com/warren-mesh/warren/ztunnel/lb"
	"github.com/warren-mesh/warren/ztunnel/route"
)

// Query is a connection to explain.
type Query struct {
	// Source is a pod's namespace/name or uid, or an address.
	Source string
	// Destination is an address, namespace/name of a service or pod (service/… and pod/… tell them apart), or a
	// service's host name.
	Destination string
	Port        uint16
	// Family is 4 or 6; 0 takes IPv4 where there is the choice.
	Family int
}

// Explainer answers queries. Snapshot is required.
type Explainer struct {
	Node     string
	Snapshot func() *mesh.Snapshot
	// Listeners are those held here, by pod uid; nil where there are none. It is called once for each query.
	Listeners func() map[string][]string
	// Certificate says what is wrong with that of an identity held here, "" when nothing is; nil: nothing is known.
	Certificate func(mesh.Identity) string
	// Now is the clock; nil means time.Now.
	Now func() time.Time
}

// ErrNotFound is wrapped by errors about ends of which the mesh knows nothing.
var ErrNotFound = errors.New("not found")

// most is how many endpoints' outcomes are worked out.
const most = 64

// Explain answers q. An error says what is wrong with the query; it wraps ErrNotFound where the mesh knows no such end.
func (e Explainer) Explain(q Query) (*explain.Answer, error) {
	x := &run{Explainer: e, snap: e.Snapshot(), now: time.Now()}
	if e.Now != nil {
		x.now = e.Now()
	}
	if e.Listeners != nil {
		x.listeners = e.Listeners()
	}
	if q.Port == 0 {
		return nil, errors.New("port: want 1 to 65535")
	}
	if q.Family != 0 && q.Family != 4 && q.Family != 6 {
		return nil, errors.New("family: want 4 or 6")
	}
	var err error
	if x.source, err = findSource(x.snap, q.Source); err != nil {
		return nil, err
	}
	to, err := findDestination(x.snap, x.source, q)
	if err != nil {
		return nil, err
	}
	x.answer = &explain.Answer{
		Node: e.Node, Time: x.now, Snapshot: x.snap.Version(), Source: x.describe(),
		Destination: explain.Target{Asked: q.Destination, Port: q.Port, Address: to[0]},
	}
	if svc := x.snap.ServiceByAddr(to[0].Addr()); svc != nil {
		x.answer.Destination.Service, x.answer.Destination.Hostname = svc.NamespacedName().String(), svc.Hostname
	}
	for _, dst := range to {
		x.destination(dst)
	}
	x.summarize()
	return x.answer, nil
}

// run is the work on one query.
type run struct {
	Explainer
	snap   *mesh.Snapshot
	now    time.Time
	source source
	// listeners of the pods here, by uid
	listeners map[string][]string
	answer    *explain.Answer
	hook      explain.Capture // of the address that is looked at
}

func (x *run) describe() explain.End {
	w := x.source.workload
	if w == nil {
		return explain.End{Addresses: []netip.Addr{x.source.addr}}
	}
	return explain.End{
		Workload: w.NamespacedName().String(), UID: w.UID, PodUID: w.PodUID, Addresses: append([]netip.Addr{}, w.Addresses...),
		Node: w.Node, Identity: w.Identity(), Capture: w.Capture.String(), Why: w.CaptureReason, HostNet: w.HostNetwork,
		Listeners: x.listeners[w.PodUID],
	}
}

// destination works out all outcomes for one address.
func (x *run) destination(dst netip.AddrPort) {
	c := x.kernel(dst)
	x.hook = c
	switch {
	case c.Captured:
		x.tunnelled(dst)
	case c.Reason.Kind() == reason.Drop:
		x.add(explain.Outcome{Target: dst.String(), Verdict: explain.Refused, Reason: c.Reason, Note: "the kernel refuses the application's connect"})
	default:
		x.direct(dst)
	}
}

func (x *run) add(o explain.Outcome) {
	if len(x.answer.Outcomes) == most {
		x.answer.Omitted++
		return
	}
	o.Capture = x.hook
	x.answer.Outcomes = append(x.answer.Outcomes, o)
}

// considered lists an endpoint. Whether it may be chosen is known once one was.
func (x *run) considered(e lb.Endpoint, s lb.Standing) {
	out := explain.Endpoint{Workload: e.Workload.NamespacedName().String(), Standing: s.String()}
	if e.Target.Addr().IsValid() {
		out.Target = e.Target.String()
	}
	x.answer.Endpoints = append(x.answer.Endpoints, out)
}

func (x *run) chosen(target string) {
	for i := range x.answer.Endpoints {
		if e := &x.answer.Endpoints[i]; e.Target == target {
			e.Chosen = true
		}
	}
}

// tunnelled asks route for each endpoint that it might choose.
func (x *run) tunnelled(dst netip.AddrPort) {
	q := route.Query{Source: x.source.workload, SourcePod: x.source.workload.PodUID, Destination: dst, SameNode: x.source.workload.Node}
	choices := 1
	for i := 0; i < choices; i++ {
		var steps []string
		q.Trace = func(s route.Step) { steps = append(steps, s.String()) }
		if q.Considered = nil; i == 0 {
			q.Considered = x.considered
		}
		q.Pick = func(n int) int { choices = n; return i }
		if len(x.answer.Outcomes) == most {
			x.answer.Omitted += choices - i
			return
		}
		x.outcome(route.Decide(x.snap, q), steps)
	}
}

// outcome is that of one decision of the client's side, with the server's where there is one.
func (x *run) outcome(d route.Decision, steps []string) {
	c := &explain.Client{Node: x.source.workload.Node, Action: d.Action.String(), Reason: d.Reason, Logged: d.Reason, Steps: steps, Expected: d.Expected}
	o := explain.Outcome{Reason: d.Reason, Client: c, Target: d.Target.String(), Verdict: explain.Allowed}
	if d.Workload != nil {
		o.Endpoint = d.Workload.NamespacedName().String()
		if d.Action != route.Refuse {
			x.chosen(d.Target.String())
		}
	}
	switch d.Action {
	case route.Refuse:
		o.Verdict = explain.Refused
	case route.Wait:
		o.Verdict, c.Need = explain.Waits, need(d.Need)
	case route.Passthrough:
		c.Upstream = d.Upstream.String()
		x.plain(&o, d.Workload, d.Upstream)
	case route.Tunnel:
		c.Upstream, c.Authority = d.Upstream.String(), d.Authority
		if x.Certificate != nil && c.Node == x.Node {
			o.Note = x.Certificate(x.source.workload.Identity())
		}
		if d.InProcess(x.snap.Config()) {
			c.Upstream, c.Authority, c.Witness = d.Target.String(), "", d.Upstream.String()
		}
		if d.Service != nil && !d.Service.Waypoint.IsZero() {
			c.Waypoint = d.Service.Waypoint.String()
			o.Note = strings.TrimPrefix(o.Note+"; what the waypoint does with it is not told here", "; ")
			x.chosen(netip.AddrPortFrom(d.Upstream.Addr(), d.Target.Port()).String())
			break
		}
		x.stream(&o, d)
	}
	x.add(o)
}

func need(n route.Need) string {
	switch n.Kind {
	case route.NeedPod:
		return "the workload of pod " + n.UID
	case route.NeedAddress:
		return "an object that has the address " + n.Addr.String()
	}
	return "the node of " + n.UID + " to report it captured"
}

// summarize says what all outcomes have in common.
func (x *run) summarize() {
	a := x.answer
	for i, o := range a.Outcomes {
		switch {
		case i == 0:
			a.Verdict, a.Reason, a.ReasonText, a.Policy, a.Capture = o.Verdict, o.Reason, o.ReasonText, o.Policy, o.Capture
			continue
		case o.Verdict != a.Verdict:
			a.Verdict = explain.Depends
		}
		if o.Reason != a.Reason {
			a.Reason = reason.None
		}
		if o.ReasonText != a.ReasonText {
			a.ReasonText = ""
		}
		if o.Policy != a.Policy {
			a.Policy = ""
		}
	}
}

func notFound(format string, args ...any) error {
	return fmt.Errorf("%s: %w", fmt.Sprintf(format, args...), ErrNotFound)
}
