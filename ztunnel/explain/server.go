// SPDX-License-Identifier: Apache-2.0

package explain

import (
	"net/netip"

	"github.com/warren-mesh/warren/mesh"
	"github.com/warren-mesh/warren/mesh/explain"
	"github.com/warren-mesh/warren/mesh/reason"
	"github.com/warren-mesh/warren/ztunnel/admit"
	"github.com/warren-mesh/warren/ztunnel/authz"
	"github.com/warren-mesh/warren/ztunnel/lb"
	"github.com/warren-mesh/warren/ztunnel/route"
)

// judge evaluates policy and remembers each policy's verdict.
type judge struct{ verdicts []authz.Verdict }

func (j *judge) Evaluate(snap *mesh.Snapshot, dst *mesh.Workload, c authz.Connection) authz.Decision {
	j.verdicts = nil
	return authz.Explain(snap, dst, c, func(v authz.Verdict) { j.verdicts = append(j.verdicts, v) })
}

// stream adds what the destination's ztunnel does with the CONNECT request.
func (x *run) stream(o *explain.Outcome, d route.Decision) {
	src := x.source.from(d.Upstream.Addr())
	if !src.IsValid() {
		o.Verdict, o.Reason, o.Client.Logged = explain.Refused, reason.ConnectFailure, reason.ConnectFailure
		o.Note = "the source has no address of the endpoint's family"
		return
	}
	var j judge
	a := admit.Stream(x.snap, &j, d.Workload, x.source.workload.Identity(), src, d.Upstream.Addr(), d.Authority)
	s := x.server(o, &j, a, d.Workload, src)
	s.Protocol, s.Peer = "HBONE", x.source.workload.Identity()
	if o.Client.Witness != "" {
		s.Protocol = explain.Inside
	}
	if a.Bad != nil {
		s.Detail = a.Bad.Error()
	}
	if o.Verdict != explain.Allowed {
		o.Client.Logged = reason.PeerRefused
		return
	}
	if o.Reason = d.Reason; o.Client.Witness != "" {
		s.Reason = d.Reason
	}
}

// direct works out a connection that no ztunnel of the source's sees. The cluster's own service proxy chooses among
// endpoints; it knows nothing of capture.
func (x *run) direct(dst netip.AddrPort) {
	if w := x.source.workload; w != nil && (dst.Addr().IsLoopback() || addressed(w, dst.Addr())) {
		x.add(explain.Outcome{Endpoint: w.NamespacedName().String(), Target: dst.String(), Verdict: explain.Allowed, Reason: x.hook.Reason})
		return
	}
	svc := x.snap.ServiceByAddr(dst.Addr())
	if svc == nil {
		o := explain.Outcome{Target: dst.String(), Verdict: explain.Allowed, Reason: x.hook.Reason}
		w := x.snap.WorkloadByAddr(dst.Addr())
		if w != nil {
			o.Endpoint = w.NamespacedName().String()
		}
		x.plain(&o, w, dst)
		x.add(o)
		return
	}
	c := lb.Gather(x.snap, svc, dst.Port(), dst.Addr(), x.node(), x.considered)
	all := append(c.Usable, c.Pending...)
	for _, e := range all {
		x.chosen(e.Target.String())
		o := explain.Outcome{Endpoint: e.Workload.NamespacedName().String(), Target: e.Target.String(), Verdict: explain.Allowed}
		x.plain(&o, e.Workload, e.Target)
		x.add(o)
	}
	if len(all) == 0 {
		x.add(explain.Outcome{Verdict: explain.Refused, Reason: reason.NoHealthyEndpoint,
			Note: "the cluster's service proxy refuses it: no ready endpoint serves the port"})
	}
}

// node is the client's; unknown for what is no workload.
func (x *run) node() string {
	if x.source.workload == nil {
		return ""
	}
	return x.source.workload.Node
}

// plain adds what the destination's ztunnel, if it has one, does with plain TCP.
func (x *run) plain(o *explain.Outcome, w *mesh.Workload, dst netip.AddrPort) {
	if w == nil || !x.captured(w) || w == x.source.workload {
		return
	}
	src := x.source.from(dst.Addr())
	if !src.IsValid() {
		o.Note = "the source has no address of the destination's family"
		return
	}
	if r := reserved(dst.Port()); r != reason.None {
		o.Verdict, o.Reason, o.Note = explain.Refused, r, "the port belongs to the mesh in every captured pod"
		return
	}
	var j judge
	a := admit.Plaintext(x.snap, &j, w, w.PodUID, src, dst, x.now)
	s := x.server(o, &j, a, w, src)
	s.Protocol, s.Target = "TCP", dst
	o.Reason = a.Reason
}

// server fills in the outcome by the server's decision.
func (x *run) server(o *explain.Outcome, j *judge, a admit.Decision, w *mesh.Workload, src netip.Addr) *explain.Server {
	s := &explain.Server{Node: w.Node, Action: a.Action.String(), Reason: a.Reason, Source: src, Target: a.Inbound.Target}
	o.Server = s
	s.Policies, s.Omitted = policies(j.verdicts, a.Policy)
	switch a.Action {
	case route.Refuse:
		o.Verdict = explain.Refused
	case route.Wait:
		o.Verdict, s.Waits = explain.Waits, "the destination's workload, or the source's state, to change"
		if !a.Policy.Need.IsZero() {
			s.Waits = "policy " + a.Policy.Need.String()
		}
	default:
		return s
	}
	o.Reason = a.Reason
	if text := a.Text(); text != a.Reason.Text() {
		o.ReasonText = text
	}
	if p := admit.Decisive(a.Policy); a.Judged && !a.Policy.Allowed && !p.IsZero() {
		o.Policy = p.String()
	}
	return s
}
