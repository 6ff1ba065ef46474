// SPDX-License-Identifier: Apache-2.0

package proxy

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net/netip"

	"github.com/warren-mesh/warren/mesh"
	"github.com/warren-mesh/warren/mesh/reason"
	"github.com/warren-mesh/warren/ztunnel/admit"
	"github.com/warren-mesh/warren/ztunnel/hbone"
	"github.com/warren-mesh/warren/ztunnel/inpod"
	"github.com/warren-mesh/warren/ztunnel/metrics"
	"github.com/warren-mesh/warren/ztunnel/record"
	"github.com/warren-mesh/warren/ztunnel/route"
)

// tunnel is one HBONE connection that a peer's ztunnel opened to a pod here.
type tunnel struct {
	life   life
	pod    *pod
	conn   *inpod.Conn
	peer   mesh.Identity
	server *hbone.ServerConn
}

// serveTunnel terminates one HBONE connection. Each of its streams is a connection of its own.
func (p *Proxy) serveTunnel(stay life, pd *pod, conn *inpod.Conn) *relaying {
	if p.witnesses.claim(stay, pd.uid, conn) {
		<-pd.handshakes
		return nil
	}
	t := &tunnel{life: stay, pod: pd, conn: conn}
	rc, err := p.handshake(t)
	<-pd.handshakes
	if err != nil {
		_ = tunnelConn{conn}.Close()
		if !errors.Is(err, io.EOF) { // who connects and says nothing tells nothing
			p.failedTunnel(t, err)
		}
		return nil
	}
	cfg := p.cfg.HBONE
	cfg.Budget = pd.account.budget
	t.server = hbone.NewServer(rc, cfg, func(s *hbone.ServerStream) { p.serveStream(t, s) })
	pd.mu.Lock()
	full := len(pd.tunnels) >= p.cfg.PodConnections
	if !full {
		pd.tunnels[t] = struct{}{}
	}
	leaving := pd.leaving != nil || p.draining.Load()
	pd.mu.Unlock()
	switch {
	case full:
		_ = rc.Close()
		pd.usage.turnedAway()
		p.failedTunnel(t, fail(reason.Limit, "the pod has %d tunnels", p.cfg.PodConnections))
		return nil
	case leaving:
		t.server.GoAway()
	}
	// What is trusted may have changed since the handshake, before the tunnel was on the list.
	if err := p.cfg.Identities.StillClient(t.server.ConnectionState(), t.pod.self()); err != nil {
		t.server.End(err)
	}
	if err := t.server.Serve(stay); err != nil && stay.Err() == nil {
		p.log.Debug("tunnel ended", "pod", pd.uid, "src.addr", conn.RemoteAddrPort(), "src.identity", t.peer, "err", err)
	}
	pd.mu.Lock()
	delete(pd.tunnels, t)
	pd.mu.Unlock()
	return nil
}

// handshake proves both identities, in bounded time: a stranger can't hold a connection for long.
func (p *Proxy) handshake(t *tunnel) (record.Conn, error) {
	ctx, cancel := context.WithTimeout(t.life, p.cfg.ConnectTimeout)
	defer cancel()
	cfg, err := p.cfg.Identities.ServerConfig(ctx, t.pod.self())
	if err != nil {
		return nil, fail(identityReason(err), "prepare tunnel from %s: %w", t.conn.RemoteAddrPort(), err)
	}
	tc := tls.Server(record.Buffered(tunnelConn{t.conn}), cfg)
	if err := tc.HandshakeContext(ctx); err != nil {
		return nil, fail(identityReason(err), "handshake with %s: %w", t.conn.RemoteAddrPort(), err)
	}
	if t.peer, err = p.cfg.Identities.Peer(tc.ConnectionState()); err != nil {
		return nil, fail(identityReason(err), "handshake with %s: %w", t.conn.RemoteAddrPort(), err)
	}
	return record.OverTLS(tc), nil
}

// failedTunnel leaves the record of a tunnel that carried nothing.
func (p *Proxy) failedTunnel(t *tunnel, err error) {
	snap := p.cfg.Store.Snapshot()
	src, dst := t.conn.RemoteAddrPort(), t.conn.LocalAddrPort()
	c, _ := p.begin(t.life, t.pod, metrics.Destination, facts{
		direction: inbound, src: src, dst: dst, early: true,
		source: snap.WorkloadByAddr(src.Addr()), destination: snap.WorkloadByAddr(dst.Addr()),
	}, nil)
	c.finish(err)
}

// serveStream carries one connection of a tunnel, to its end.
func (p *Proxy) serveStream(t *tunnel, s *hbone.ServerStream) {
	if !p.enter() {
		return // refused by its tunnel
	}
	begun := make(chan *relaying)
	p.workers.do(func() { begun <- p.beginStream(t, s) })
	if r := <-begun; r != nil {
		r.run(p)
		return
	}
	p.leaveWork()
}

func (p *Proxy) beginStream(t *tunnel, s *hbone.ServerStream) *relaying {
	req := s.Request()
	f := facts{
		direction: inbound, src: t.conn.RemoteAddrPort(), dst: t.conn.LocalAddrPort(), authority: route.Clip(req.Authority),
		sourceID: t.peer, destinationID: t.pod.self(), mutual: true, reason: reason.Tunnel,
	}
	f.span, f.parent = p.continueTrace(req.TraceParent)
	c, err := p.begin(t.life, t.pod, metrics.Destination, f, nil)
	var r *relaying
	if err == nil {
		r, err = c.carryStream(t, s)
	}
	if err != nil {
		_ = s.Refuse(statusOf(c.cause(err)))
	}
	return c.finishAfter(r, err)
}

func (c *connection) carryStream(t *tunnel, s *hbone.ServerStream) (*relaying, error) {
	req, peer := s.Request(), t.conn.RemoteAddrPort()
	in, local, err := c.admit(t.peer, peer, t.conn.LocalAddrPort(), req.Authority)
	if err != nil {
		return nil, err
	}
	if s.Withdrawn() { // while it waited: the application need not hear of it
		return nil, errors.New("request was withdrawn")
	}
	app, err := c.dialApplication(in.Target, clientOf(req.Forwarded, peer))
	if err != nil {
		return nil, err
	}
	stream, err := s.Accept(hbone.Header{Baggage: baggage(local)})
	if err != nil {
		return nil, err
	}
	client := streamSide{stream}
	c.attach(0, client)
	c.established()
	return &relaying{client: client, server: app, moved: c.moved}, nil
}

// admit lets in, or not, what the identity peer asks for from src, by a tunnel to dst of this pod. Policy may end it
// from then on.
func (c *connection) admit(peer mesh.Identity, src, dst netip.AddrPort, authority string) (in route.Inbound, local *mesh.Workload, err error) {
	err = c.admitted(func() (netip.Addr, netip.AddrPort, error) {
		in, local, err = c.ask(peer, src, dst, authority)
		return src.Addr(), in.Target, err
	})
	return in, local, err
}

// ask checks the authority and policy of a request, and waits for what the snapshot lacks. No byte of the
// application was read yet.
func (c *connection) ask(peer mesh.Identity, src, dst netip.AddrPort, authority string) (in route.Inbound, local *mesh.Workload, err error) {
	var d admit.Decision
	err = c.proxy.await(c.ctx, func(snap *mesh.Snapshot, last bool) bool {
		local = c.pod.workload(snap, func() *mesh.Workload { return snap.WorkloadByAddr(dst.Addr()) })
		if d = admit.Stream(snap, &c.proxy.policies, local, peer, src.Addr(), dst.Addr(), authority); last {
			d = d.Expired()
		}
		c.learn(func(f *facts) {
			f.source, f.destination = snap.WorkloadByAddr(src.Addr()), local
			if d.Bad == nil {
				f.service, f.target = d.Inbound.Service, d.Inbound.Target
			}
		})
		c.judged(d)
		return d.Action != route.Wait
	})
	var bad *route.AuthorityError
	switch {
	case err != nil:
	case errors.As(d.Bad, &bad):
		err = &refusedRequest{endError{bad.Reason, fmt.Errorf("%s from %s: %w", peer, src, bad)}, bad.Status}
	case d.Action != route.Tunnel:
		err = fail(d.Reason, "%s from %s: %s", peer, src, d.Text())
	}
	return d.Inbound, local, err
}

// refusedRequest is a refusal with an HTTP status of its own.
type refusedRequest struct {
	endError
	status int
}

func (e *refusedRequest) Unwrap() error { return &e.endError }

// statusOf is the answer to CONNECT for an error: 401 for policy, 400 for a bad request, else 503.
func statusOf(err error) int {
	var r *refusedRequest
	if errors.As(err, &r) {
		return r.status
	}
	switch reasonOf(err) {
	case reason.PolicyDeny, reason.PolicyNoAllow, reason.PolicyUnknown, reason.StrictMTLS, reason.PolicyChanged:
		return 401
	case reason.BadRequest:
		return 400
	}
	return 503
}
