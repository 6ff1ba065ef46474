// SPDX-License-Identifier: Apache-2.0

package route

import (
	"net/netip"

	"github.com/warren-mesh/warren/mesh"
	"github.com/warren-mesh/warren/mesh/broker"
	"github.com/warren-mesh/warren/mesh/reason"
	"github.com/warren-mesh/warren/ztunnel/lb"
)

// Query is one outbound connection of a captured pod.
type Query struct {
	// Source is the pod's workload; nil while the snapshot does not know it.
	Source *mesh.Workload
	// SourcePod is the pod's uid.
	SourcePod string
	// Destination is what the application connected to.
	Destination netip.AddrPort
	// Pick chooses in [0, n); nil is random.
	Pick func(n int) int
	// SameNode is this ztunnel's node; "" never calls a destination local.
	SameNode string
	// Trace and Considered, unless nil, are told what Decide looks at; nil on the data path.
	Trace      func(Step)
	Considered lb.Considered
}

func (q *Query) note(s Step) {
	if q.Trace != nil {
		q.Trace(s)
	}
}

// Decide resolves both ends of an outbound connection from one snapshot and says how it travels.
func Decide(snap *mesh.Snapshot, q Query) Decision {
	dst := netip.AddrPortFrom(q.Destination.Addr().Unmap(), q.Destination.Port())
	d := Decision{Target: dst}
	switch {
	case q.Source == nil:
		q.note(StepSourceUnknown)
		return wait(d, Need{Kind: NeedPod, UID: q.SourcePod}, reason.SourceUnknown)
	case recursive(q.Source, dst):
		q.note(StepMeshPort)
		return refuse(d, reason.RecursiveCall)
	}
	if d.Service = snap.ServiceByAddr(dst.Addr()); d.Service != nil {
		q.note(StepService)
		return toService(snap, q, d)
	}
	if d.Workload = snap.WorkloadByAddr(dst.Addr()); d.Workload != nil {
		q.note(StepWorkload)
		return toWorkload(q, d)
	}
	cfg := snap.Config()
	switch {
	case q.Source.Excepts(cfg, dst.Addr()):
		q.note(StepExcepted)
		return pass(d, reason.Excepted)
	case cfg.InCluster(dst.Addr()):
		q.note(StepInCluster)
		return wait(d, Need{Kind: NeedAddress, Addr: dst.Addr()}, reason.DestinationUnknown)
	}
	q.note(StepOutsideCluster)
	return pass(d, reason.PassthroughOutsideCluster)
}

// toService chooses an endpoint of d.Service. Pending ones are not chosen while another can be.
func toService(snap *mesh.Snapshot, q Query, d Decision) Decision {
	vip := d.Target
	if _, ok := d.Service.Port(vip.Port()); !ok {
		q.note(StepNoPort)
		return refuse(d, reason.NoSuchPort)
	}
	if !d.Service.Waypoint.IsZero() {
		q.note(StepWaypoint)
		return toWaypoint(snap, q, d)
	}
	c := lb.Gather(snap, d.Service, vip.Port(), vip.Addr(), q.Source.Node, q.Considered)
	switch {
	case len(c.Usable) > 0:
		q.note(StepUsable)
		e := q.choose(d.Service, c.Usable)
		d.Workload, d.Target = e.Workload, e.Target
		return toWorkload(q, d)
	case len(c.Pending) > 0:
		q.note(StepPending)
		e := q.choose(d.Service, c.Pending)
		d.Workload, d.Target = e.Workload, e.Target
		return toWorkload(q, d)
	case c.Ready > 0:
		q.note(StepNotServed)
		return refuse(d, reason.NoSuchPort)
	}
	q.note(StepNoneReady)
	return refuse(d, reason.NoHealthyEndpoint)
}

func (q *Query) choose(svc *mesh.Service, es []lb.Endpoint) lb.Endpoint {
	if svc.Sticky && len(q.Source.Addresses) > 0 {
		return lb.Keep(es, q.Source.Addresses[0])
	}
	return lb.Choose(es, q.Pick)
}

// toWaypoint carries the connection to a bound waypoint, which sees the address the client asked for.
// Without a ready waypoint it fails: it never goes around.
func toWaypoint(snap *mesh.Snapshot, q Query, d Decision) Decision {
	vip := d.Target
	var ready []lb.Endpoint
	for _, w := range snap.Endpoints(d.Service.Waypoint) {
		e, standing := lb.Endpoint{Workload: w}, lb.Usable
		switch {
		case !w.Ready:
			standing = lb.NotReady
		case len(w.Addresses) == 0:
			standing = lb.NoAddress
		default:
			e.Target = netip.AddrPortFrom(w.Addresses[0].Unmap(), vip.Port())
			ready = append(ready, e)
		}
		if q.Considered != nil {
			q.Considered(e, standing)
		}
	}
	if len(ready) == 0 {
		q.note(StepNoneReady)
		return refuse(d, reason.NoHealthyEndpoint)
	}
	e := lb.Choose(ready, q.Pick)
	d.Workload, d.Target = e.Workload, e.Target
	d = tunnel(q, d, nil)
	d.Target, d.Authority = vip, vip.String()
	return d
}

// toWorkload applies the rules of which destination is HBONE, first that fits.
func toWorkload(q Query, d Decision) Decision {
	w := d.Workload
	switch {
	case w.HostNetwork || w.Capture == mesh.Outside:
		q.note(StepOutsideMesh)
		return pass(d, reason.PassthroughNotEnrolled)
	case meshPort(d.Target.Port()):
		q.note(StepMeshPort)
		return refuse(d, reason.RecursiveCall)
	case w.Capture == mesh.Captured:
		q.note(StepCaptured)
		var also []string
		if d.Service != nil {
			also = d.Service.SubjectAltNames
		}
		return tunnel(q, d, also)
	case w.Capture == mesh.ReadyBeforeEnrolled:
		q.note(StepBeforeEnrolled)
		return pass(d, reason.PassthroughBeforeEnrolled)
	}
	q.note(StepNotCaptured)
	return wait(d, Need{Kind: NeedCapture, UID: w.UID}, reason.DestinationNotCaptured)
}

// tunnel fills in HBONE to d.Target on d.Workload. A destination without an identity can't be told from
// an impostor, so it is refused.
func tunnel(q Query, d Decision, also []string) Decision {
	if id := d.Workload.Identity(); !id.IsZero() {
		d.Expected = append(d.Expected, id.String())
	}
	d.Expected = append(d.Expected, also...)
	if len(d.Expected) == 0 {
		q.note(StepNoIdentity)
		return refuse(d, reason.IdentityMismatch)
	}
	d.Action, d.Reason = Tunnel, reason.Tunnel
	if q.SameNode != "" && d.Workload.Node == q.SameNode {
		d.Reason = reason.SameNode
	}
	d.Upstream = netip.AddrPortFrom(d.Target.Addr(), broker.PortHBONE)
	d.Authority = d.Target.String()
	return d
}

// recursive reports whether dst is one of the source pod's own mesh listeners.
func recursive(source *mesh.Workload, dst netip.AddrPort) bool {
	return meshPort(dst.Port()) && (dst.Addr().IsLoopback() || dst.Addr().IsUnspecified() || has(source, dst.Addr()))
}

// meshPort reports whether a captured pod's port p belongs to the mesh and never to an application.
func meshPort(p uint16) bool {
	switch p {
	case broker.PortOutbound, broker.PortPlaintext, broker.PortHBONE, broker.PortDNS:
		return true
	}
	return p >= broker.CaptureFirst && p <= broker.CaptureLast
}

func has(w *mesh.Workload, a netip.Addr) bool {
	for _, b := range w.Addresses {
		if b.Unmap() == a {
			return true
		}
	}
	return false
}
