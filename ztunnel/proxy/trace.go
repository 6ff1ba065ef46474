// SPDX-License-Identifier: Apache-2.0

package proxy

import (
	"time"

	"github.com/warren-mesh/warren/mesh/reason"
	"github.com/warren-mesh/warren/ztunnel/tracing"
)

// newTrace names the span of a connection that nobody named one for.
func (p *Proxy) newTrace() tracing.Context {
	c := tracing.NewContext()
	c.Sampled = p.cfg.Tracer.Sampled(c.Trace)
	return c
}

// continueTrace names the span of a connection whose client's end has one, by traceparent. Of what a peer says only
// the ids are believed; whether there is a span is decided here. Where the peer says that it makes none there is no
// parent to point at.
func (p *Proxy) continueTrace(header string) (c tracing.Context, parent [8]byte) {
	peer := tracing.Parse(header)
	if peer.IsZero() {
		return p.newTrace(), parent
	}
	if peer.Sampled {
		parent = peer.Span
	}
	c = peer.Child()
	c.Sampled = p.cfg.Tracer.Sampled(c.Trace)
	return c, parent
}

// traced exports the connection's span, if it is to have one.
func (c *connection) traced(f *facts, now time.Time, final reason.Reason, err error) {
	t := c.proxy.cfg.Tracer
	if f.span.IsZero() && t.On() { // one without a tunnel
		f.span = c.proxy.newTrace()
	}
	if !f.span.Sampled {
		return
	}
	s := &tracing.Span{
		Context: f.span, Parent: f.parent, Kind: tracing.Server, Start: c.started, End: now,
		Local: tracing.PeerOf(f.destination, f.destinationID), Remote: tracing.PeerOf(f.source, f.sourceID),
		Source: f.src, Destination: f.dst, Encrypted: f.mutual, Reason: final, Err: err,
	}
	if f.direction == outbound {
		s.Kind, s.Local, s.Remote = tracing.Client, s.Remote, s.Local
	}
	if f.target.IsValid() {
		s.Destination = f.target
	}
	if f.service != nil {
		s.Host = f.service.Hostname
	}
	if !f.policy.IsZero() {
		s.Policy = f.policy.String()
	}
	s.Sent, s.Received = c.bytes(f.direction)
	t.Export(s)
}
