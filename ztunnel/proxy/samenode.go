// SPDX-License-Identifier: Apache-2.0

package proxy

import (
	"context"
	"net/netip"

	"github.com/warren-mesh/warren/mesh"
	"github.com/warren-mesh/warren/mesh/reason"
	"github.com/warren-mesh/warren/ztunnel/inpod"
	"github.com/warren-mesh/warren/ztunnel/metrics"
	"github.com/warren-mesh/warren/ztunnel/route"
)

// local returns the pod here that d's connection need not leave this process for, nil where there is none. A name or
// an address in the snapshot makes no pod local: ZDS and the broker must have given it to this process to serve, and to no
// other, for the witness might arrive there. stay is the one that the pod was found in: what is carried to it ends with
// that, though another may have begun.
func (p *Proxy) local(d route.Decision) (there *pod, stay life) {
	if !d.InProcess(p.cfg.Store.Snapshot().Config()) || p.draining.Load() || p.beside.Load() {
		return nil, life{}
	}
	pd := p.find(d.Workload.PodUID)
	if pd == nil {
		return nil, life{}
	}
	pd.mu.Lock()
	defer pd.mu.Unlock()
	if !pd.known || pd.leaving != nil || !pd.serving[inpod.HBONE] {
		return nil, life{}
	}
	return pd, pd.life
}

// carryInside carries the connection to a pod that this process serves too. What HBONE would prove is proven and what
// its far end would judge is judged, by the same functions, but the bytes go from socket to socket. errElsewhere:
// nothing was done, and only a tunnel can tell who is at the other end.
func (c *connection) carryInside(app *inpod.Conn, source *mesh.Workload, d route.Decision, there *pod, stay life) (*relaying, error) {
	p, self, peer := c.proxy, c.pod.self(), there.self()
	certified := patient(c.ctx, p.cfg.ConnectTimeout)
	seen := p.trustChanges.Load()
	still, err := p.cfg.Identities.Mutual(certified, self, peer, d.Expected)
	certified.over()
	if err != nil {
		return nil, fail(identityReason(err), "prove %s and %s to each other: %w", self, peer, err)
	}
	w, err := p.witnesses.hold(c.ctx, podPair{c.pod.uid, there.uid, d.Upstream}, source.Addresses)
	if err != nil {
		return nil, err
	}
	stop := context.AfterFunc(w.standing, func() { c.cancel(context.Cause(w.standing)) })
	letGo := func() {
		stop()
		p.witnesses.release(w)
	}
	if err := c.vouched(seen, still); err != nil {
		letGo()
		return nil, err
	}
	span := p.newTrace()
	c.learn(func(f *facts) { f.dst, f.span = d.Target, span })
	client := tcpSide{app, &c.pod.account}
	in, err := p.beginWith(c.moved, stay, there, metrics.Destination, facts{
		direction: inbound, src: app.RemoteAddrPort(), dst: d.Target, sourceID: self, destinationID: peer, mutual: true,
		reason: reason.SameNode, span: span.Child(), parent: span.Span,
	}, client)
	stopIn := context.AfterFunc(c.ctx, func() { in.cancel(context.Cause(c.ctx)) })
	end := func(err error) error {
		if stopIn(); c.ctx.Err() != nil { // what ended the one ended the other: stopIn may have been faster
			in.cancel(context.Cause(c.ctx))
		}
		err = in.cause(err)
		in.finish(err)
		letGo()
		return err
	}
	var server side
	if err == nil {
		server, err = in.carryFrom(c, app, d.Authority, w)
	}
	if err != nil { // as a tunnel's far end answers, which logs why
		return nil, fail(reason.PeerRefused, "refused by its own side: %w", end(err))
	}
	return &relaying{client: client, server: server, moved: c.moved, end: end}, nil
}

// carryFrom is the destination's part: c is the pod's connection, from the client's.
func (c *connection) carryFrom(client *connection, app *inpod.Conn, authority string, w *witness) (side, error) {
	// The network's word on who comes from where, as a tunnel's far end has it.
	src, dst := w.far.RemoteAddrPort(), w.far.LocalAddrPort()
	if own := app.RemoteAddrPort(); own.Addr() == src.Addr() {
		src = own
	}
	id := client.pod.self()
	in, _, err := c.admit(id, src, dst, authority)
	if err != nil {
		return nil, err
	}
	server, err := c.dialApplication(in.Target, src)
	if err != nil {
		return nil, err
	}
	client.attach(1, server)
	client.learn(func(f *facts) { f.mutual, f.sourceID, f.destinationID = true, id, c.pod.self() })
	c.established()
	client.established()
	return server, nil
}

// podPair says which connections need the same witness: those of one pod to one address of another.
type podPair struct {
	source, destination string // pod uids
	to                  netip.AddrPort
}
