// SPDX-License-Identifier: Apache-2.0

package proxy

import (
	"context"
	"errors"
	"log/slog"
	"net/netip"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/warren-mesh/warren/mesh"
	"github.com/warren-mesh/warren/mesh/reason"
	"github.com/warren-mesh/warren/ztunnel/accesslog"
	"github.com/warren-mesh/warren/ztunnel/authz"
	"github.com/warren-mesh/warren/ztunnel/metrics"
	"github.com/warren-mesh/warren/ztunnel/tracing"
)

const (
	outbound = "outbound"
	inbound  = "inbound"
)

// facts is what is known of a connection so far.
type facts struct {
	direction string
	src, dst  netip.AddrPort
	// source and destination as far as the snapshot explains them.
	source, destination *mesh.Workload
	// sourceID and destinationID were proven by TLS; zero in plaintext.
	sourceID, destinationID mesh.Identity
	service                 *mesh.Service
	// authority of CONNECT, where there is a tunnel.
	authority string
	target    netip.AddrPort // what the application is asked for
	mutual    bool
	reason    reason.Reason // why it is carried the way it is
	policy    mesh.Name     // that refused it
	// dryRun and audit policies that matched when it was let in or refused.
	dryRun, audit []authz.Note
	// span of this end, and the client's, zero where there is none.
	span   tracing.Context
	parent [8]byte
	// early: it failed in the handshake of a tunnel.
	early bool
}

// connection is one application connection. The goroutine that serves it calls finish exactly once; whoever wants
// to end it before cancels its context with an endError.
type connection struct {
	proxy    *Proxy
	pod      *pod
	id       uint64
	reporter metrics.Reporter
	started  time.Time

	ctx    context.Context
	cancel context.CancelCauseFunc
	calm   func() bool // stops waiting for ctx
	moved  *moved

	mu     sync.Mutex
	facts  facts
	sides  [2]side         // what kill must abort
	series *metrics.Series // set once it is established
	talker Talker          // likewise
	// told is how much of up and down series has.
	told struct{ up, down uint64 }
	// judge tells whether policy still allows an established inbound connection; nil: nothing to judge.
	judge func(*mesh.Snapshot) verdict
	// vouch tells whether the tunnel of an outbound connection is still to be trusted; nil: there is none.
	vouch       func() error
	undecidedAt time.Time // since when a policy it references is unknown
}

// moved counts the bytes of one relay, client to server and back, for the connections that are its ends here.
type moved struct{ up, down atomic.Uint64 }

// begin registers a connection that was accepted as client, which may be nil. It fails when the pod has too many.
func (p *Proxy) begin(stay life, pd *pod, r metrics.Reporter, f facts, client side) (*connection, error) {
	return p.beginWith(new(moved), stay, pd, r, f, client)
}

func (p *Proxy) beginWith(m *moved, stay life, pd *pod, r metrics.Reporter, f facts, client side) (*connection, error) {
	c := &connection{proxy: p, pod: pd, id: p.nextID.Add(1), reporter: r, started: p.cfg.Now(), facts: f, moved: m}
	c.ctx, c.cancel = context.WithCancelCause(stay)
	c.sides[0] = client
	c.calm = context.AfterFunc(c.ctx, c.abort)
	p.cfg.Metrics.Opened(r)
	pd.mu.Lock()
	full := len(pd.conns) >= p.cfg.PodConnections
	pd.conns[c.id] = c
	pd.mu.Unlock()
	pd.usage.begun(f.direction, full)
	if full {
		return c, fail(reason.Limit, "the pod has %d connections", p.cfg.PodConnections)
	}
	return c, nil
}

// abort breaks both sides. It runs when the context ends before finish.
func (c *connection) abort() {
	c.mu.Lock()
	sides := c.sides
	c.mu.Unlock()
	for _, s := range sides {
		if s != nil {
			s.abort()
		}
	}
}

// attach adds the second side. A connection that was killed meanwhile aborts it at once.
func (c *connection) attach(i int, s side) {
	c.mu.Lock()
	c.sides[i] = s
	c.mu.Unlock()
	if c.ctx.Err() != nil {
		s.abort()
	}
}

// learn changes the facts.
func (c *connection) learn(f func(*facts)) {
	c.mu.Lock()
	defer c.mu.Unlock()
	f(&c.facts)
}

// established counts the connection as opened, and logs it where the log is asked for everything: bytes may flow.
func (c *connection) established() {
	c.mu.Lock()
	c.series = c.proxy.cfg.Metrics.Series(c.facts.labels(c.reporter, c.facts.reason))
	c.series.Opened.Add(1)
	f := c.facts
	c.talker = f.talker()
	c.pod.usage.note(c.proxy.cfg.Now(), c.talker, Traffic{Opened: 1})
	c.mu.Unlock()
	if !c.proxy.log.Enabled(c.ctx, slog.LevelDebug) {
		return
	}
	rec := recordPool.Get().(*accesslog.Record)
	f.record(rec, c.proxy.cfg.Now(), c.started, f.reason, nil)
	rec.Opened = true
	c.proxy.cfg.AccessLog.Write(rec)
	recordPool.Put(rec)
}

// tell adds to the series and to the pod's usage what went since it was last told; mu is held.
func (c *connection) tell(now time.Time) {
	if c.series == nil {
		return
	}
	up, down := c.moved.up.Load()-c.told.up, c.moved.down.Load()-c.told.down
	if up == 0 && down == 0 {
		return
	}
	c.series.Received.Add(up)
	c.series.Sent.Add(down)
	c.told.up += up
	c.told.down += down
	t := Traffic{Sent: down, Received: up}
	if c.facts.direction == outbound {
		t.Sent, t.Received = up, down
	}
	c.pod.usage.note(now, c.talker, t)
}

// tell has the metrics know of the bytes of connections that still live. It runs before they are read, so that it
// costs the data path nothing.
func (p *Proxy) tell() {
	now := p.cfg.Now()
	for _, pd := range p.list() {
		for _, c := range pd.list() {
			c.mu.Lock()
			c.tell(now)
			c.mu.Unlock()
		}
	}
}

// finish ends the connection: counts it, logs it, forgets it. err is nil only after both directions ended in order.
func (c *connection) finish(err error) {
	err = c.cause(err)
	c.calm()
	c.cancel(errFinished)
	if err != nil {
		c.abort()
	}
	now := c.proxy.cfg.Now()
	c.mu.Lock()
	f, series := c.facts, c.series
	c.tell(now)
	c.mu.Unlock()
	c.pod.mu.Lock()
	delete(c.pod.conns, c.id)
	c.pod.mu.Unlock()

	final := f.reason
	if err != nil {
		final = reasonOf(err)
	}
	m := c.proxy.cfg.Metrics
	if series == nil {
		m.Series(f.labels(c.reporter, final)).Failed.Add(1)
		c.pod.usage.note(now, f.talker(), Traffic{Failed: 1})
	} else {
		series.Closed.Add(1)
	}
	m.Ended(c.reporter, final)
	m.Matched(len(f.dryRun), len(f.audit))
	c.traced(&f, now, final, err)
	if c.proxy.cfg.AccessLog.Wants(err) {
		rec := recordPool.Get().(*accesslog.Record)
		f.record(rec, now, c.started, final, err)
		rec.Sent, rec.Received = c.bytes(f.direction)
		c.proxy.cfg.AccessLog.Write(rec)
		recordPool.Put(rec)
	}
}

// bytes are what the pod sent and received.
func (c *connection) bytes(direction string) (sent, received uint64) {
	if sent, received = c.moved.down.Load(), c.moved.up.Load(); direction == outbound {
		sent, received = received, sent
	}
	return sent, received
}

// cause is why the connection really ended: if it was killed, what its goroutine saw is a consequence.
func (c *connection) cause(err error) error {
	if cause := context.Cause(c.ctx); err != nil && cause != nil {
		return cause
	}
	return err
}

var errFinished = errors.New("connection is finished")

func (f *facts) labels(r metrics.Reporter, why reason.Reason) metrics.Labels {
	l := metrics.Labels{
		Reporter: r, Mutual: f.mutual, Reason: why,
		Source: metrics.PeerOf(f.source, f.sourceID), Destination: metrics.PeerOf(f.destination, f.destinationID),
	}
	if f.service != nil {
		l.ServiceHost, l.Service = f.service.Hostname, f.service.NamespacedName()
	}
	return l
}

// recordPool has those that no line is written of now: they are large, and the log keeps only its line.
var recordPool = sync.Pool{New: func() any { return new(accesslog.Record) }}

func (f *facts) record(r *accesslog.Record, now, started time.Time, why reason.Reason, err error) {
	*r = accesslog.Record{
		Time: now, Duration: now.Sub(started), Direction: f.direction, Reason: why, Err: err, TraceID: f.span.TraceID(), Early: f.early,
		Src: logPeer(f.src, f.source, f.sourceID), Dst: logPeer(f.dst, f.destination, f.destinationID), HBONEAddr: f.authority,
	}
	if f.service != nil {
		r.Service = f.service.Hostname
	}
	if !f.policy.IsZero() {
		r.Policy = f.policy.String()
	}
	r.DryRun, r.Audit = policyNames(f.dryRun), policyNames(f.audit)
}

// policyNames is for the log, which names the first few.
func policyNames(ns []authz.Note) string {
	const most = 8
	var names []string
	for _, n := range ns[:min(len(ns), most)] {
		names = append(names, n.Policy.String())
	}
	if len(ns) > most {
		names = append(names, "+"+strconv.Itoa(len(ns)-most))
	}
	return strings.Join(names, ",")
}

func logPeer(addr netip.AddrPort, w *mesh.Workload, id mesh.Identity) accesslog.Peer {
	p := accesslog.Peer{Addr: addr, Identity: id.String()}
	if w != nil {
		p.Workload, p.Namespace, p.Cluster = w.Name, w.Namespace, w.Cluster
	}
	return p
}

// ConnectionInfo describes a live connection for the admin page.
type ConnectionInfo struct {
	ID        uint64
	Direction string
	Src, Dst  netip.AddrPort
	Target    netip.AddrPort
	Protocol  string // HBONE or TCP
	Peer      string // identity of the other end
	Reason    reason.Reason
	Open      time.Duration
	Bound     bool // established
	// Sent and Received are the bytes so far, from the pod's side.
	Sent, Received uint64
}

func (c *connection) info() ConnectionInfo {
	c.mu.Lock()
	defer c.mu.Unlock()
	f := &c.facts
	i := ConnectionInfo{ID: c.id, Direction: f.direction, Src: f.src, Dst: f.dst, Target: f.target, Protocol: "TCP", Reason: f.reason,
		Open: c.proxy.cfg.Now().Sub(c.started), Bound: c.series != nil}
	i.Sent, i.Received = c.bytes(f.direction)
	if f.authority != "" {
		i.Protocol = "HBONE"
	}
	if i.Peer = f.destinationID.String(); f.direction == inbound {
		i.Peer = f.sourceID.String()
	}
	return i
}
