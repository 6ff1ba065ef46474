// SPDX-License-Identifier: Apache-2.0

package proxy

import (
	"context"
	"crypto/tls"
	"errors"
	"net/netip"
	"strings"

	"github.com/warren-mesh/warren/mesh"
	"github.com/warren-mesh/warren/mesh/reason"
	"github.com/warren-mesh/warren/ztunnel/hbone"
	"github.com/warren-mesh/warren/ztunnel/inpod"
	"github.com/warren-mesh/warren/ztunnel/metrics"
	"github.com/warren-mesh/warren/ztunnel/record"
	"github.com/warren-mesh/warren/ztunnel/route"
)

// serveOutbound carries one connection that a captured pod's application opened.
func (p *Proxy) serveOutbound(stay life, pd *pod, app *inpod.Conn) *relaying {
	f := facts{direction: outbound, src: app.RemoteAddrPort()}
	c, err := p.begin(stay, pd, metrics.Source, f, tcpSide{app, &pd.account})
	var r *relaying
	if err == nil {
		r, err = c.carryOutbound(app)
	}
	return c.finishAfter(r, err)
}

func (c *connection) carryOutbound(app *inpod.Conn) (*relaying, error) {
	dst, err := c.proxy.cfg.originalDestination(app)
	if err != nil {
		return nil, &endError{reason: reason.NoOriginalDestination, err: err}
	}
	c.learn(func(f *facts) { f.dst = dst })
	d, source, err := c.decide(app.RemoteAddrPort(), dst)
	if err != nil {
		return nil, err
	}
	c.learn(func(f *facts) {
		f.reason, f.source, f.destination, f.service, f.target = d.Reason, source, d.Workload, d.Service, d.Target
		if d.Upstream.IsValid() {
			f.dst = d.Upstream
		}
	})
	switch d.Action {
	case route.Tunnel:
		if there, stay := c.proxy.local(d); there != nil {
			if r, err := c.carryInside(app, source, d, there, stay); !errors.Is(err, errElsewhere) {
				return r, err
			}
		}
		return c.tunnelOutbound(app, source, d)
	case route.Passthrough:
		return c.passOutbound(app, d)
	}
	return nil, fail(d.Reason, "%s: %s", dst, d.Reason.Text())
}

// decide asks route, and waits for what the snapshot lacks.
func (c *connection) decide(src, dst netip.AddrPort) (d route.Decision, source *mesh.Workload, err error) {
	q := route.Query{SourcePod: c.pod.uid, Destination: dst, SameNode: c.proxy.cfg.Node}
	err = c.proxy.await(c.ctx, func(snap *mesh.Snapshot, last bool) bool {
		q.Source = c.pod.workload(snap, func() *mesh.Workload { return snap.WorkloadByAddr(src.Addr()) })
		if d = route.Decide(snap, q); d.Action == route.Wait && last {
			d = d.Expired()
		}
		return d.Action != route.Wait
	})
	return d, q.Source, err
}

// tunnelOutbound carries the connection by HBONE. No byte of the application is read before the far end said 200.
func (c *connection) tunnelOutbound(app *inpod.Conn, source *mesh.Workload, d route.Decision) (*relaying, error) {
	p, self := c.proxy, c.pod.self()
	span := p.newTrace()
	c.learn(func(f *facts) { f.authority, f.span = d.Authority, span })
	key := hbone.Key{PodUID: c.pod.uid, Source: self.String(), Expected: strings.Join(d.Expected, ","), Destination: d.Upstream}
	req := hbone.Request{Authority: d.Authority, Header: hbone.Header{
		Baggage: baggage(source), Forwarded: forwarded(app.RemoteAddrPort(), d.Service), TraceParent: span.Header(),
	}}
	opening, cancel := context.WithTimeout(c.ctx, openTimeout)
	defer cancel()
	seen := p.trustChanges.Load()
	s, err := p.pool.Open(opening, key, req, func(ctx context.Context) (record.Conn, error) {
		return p.dialTunnel(ctx, c.pod.uid, self, d)
	})
	if err != nil && opening.Err() != nil && c.ctx.Err() == nil {
		return nil, &endError{reason: reason.ConnectFailure, err: err}
	}
	if err != nil {
		return nil, err
	}
	far := streamSide{s}
	c.attach(1, far)
	if err := c.vouched(seen, func() error { return p.trusted(key, s.ConnectionState()) }); err != nil {
		return nil, err
	}
	peer := p.proven(s, d)
	c.learn(func(f *facts) { f.mutual, f.sourceID, f.destinationID = true, self, peer })
	c.established()
	return &relaying{client: tcpSide{app, &c.pod.account}, server: far, moved: c.moved}, nil
}

// proven is who the far end proved to be. Where the service has further names that need not be who its workload is;
// zero for a name that is no workload's.
func (p *Proxy) proven(s *hbone.Stream, d route.Decision) mesh.Identity {
	aliases := p.cfg.Store.Snapshot().Config().TrustDomainAliases
	if own := d.Workload.Identity(); len(d.Expected) == 1 && !own.IsZero() && len(aliases) == 0 {
		return own // the handshake would have taken nobody else
	}
	peer, err := p.cfg.Identities.Peer(s.ConnectionState())
	if err != nil {
		p.log.Debug("peer's name is no workload's", "dst.addr", d.Upstream, "err", err)
	}
	return peer
}

// dialTunnel connects and shakes hands with the destination's ztunnel, as the pod's own identity. Its errors
// carry their reason.
func (p *Proxy) dialTunnel(ctx context.Context, podUID string, self mesh.Identity, d route.Decision) (record.Conn, error) {
	certified, cancel := context.WithTimeout(ctx, p.cfg.ConnectTimeout)
	cfg, err := p.cfg.Identities.ClientConfig(certified, self, d.Expected)
	cancel()
	if err != nil {
		return nil, fail(identityReason(err), "prepare tunnel to %s: %w", d.Upstream, err)
	}
	connecting, cancel := context.WithTimeout(ctx, p.cfg.ConnectTimeout)
	conn, err := p.cfg.Sockets.Dial(connecting, podUID, d.Upstream, netip.AddrPort{})
	cancel()
	if err != nil {
		return nil, dialError(err, true)
	}
	shaking, cancel := context.WithTimeout(ctx, p.cfg.ConnectTimeout)
	defer cancel()
	tc := tls.Client(record.Buffered(tunnelConn{conn}), cfg)
	if err := tc.HandshakeContext(shaking); err != nil {
		_ = conn.Close()
		return nil, fail(identityReason(err), "handshake with %s: %w", d.Upstream, err)
	}
	return record.OverTLS(tc), nil
}

// tunnelConn is the TCP connection below a tunnel. The end of a stream is END_STREAM, never the end of TCP, so
// closing may be orderly and lets the last records and alerts arrive. Dying with it still resets.
type tunnelConn struct{ *inpod.Conn }

func (t tunnelConn) Close() error {
	_ = t.Orderly()
	return t.Conn.Close()
}

// passOutbound carries the connection by plain TCP.
func (c *connection) passOutbound(app *inpod.Conn, d route.Decision) (*relaying, error) {
	far, err := c.dialApplication(d.Upstream, netip.AddrPort{})
	if err != nil {
		return nil, err
	}
	c.established()
	return &relaying{client: tcpSide{app, &c.pod.account}, server: far, moved: c.moved}, nil
}

// dialApplication connects from the pod's network and attaches the connection as the far side.
func (c *connection) dialApplication(dst, client netip.AddrPort) (tcpSide, error) {
	ctx := patient(c.ctx, c.proxy.cfg.ConnectTimeout)
	defer ctx.over()
	conn, err := c.proxy.cfg.Sockets.Dial(ctx, c.pod.uid, dst, client)
	if err != nil {
		return tcpSide{}, dialError(err, false)
	}
	far := tcpSide{conn, &c.pod.account}
	c.attach(1, far)
	return far, nil
}
