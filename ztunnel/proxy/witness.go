// SPDX-License-Identifier: Apache-2.0

package proxy

import (
	"context"
	"errors"
	"net"
	"net/netip"
	"slices"
	"sync"
	"time"

	"github.com/warren-mesh/warren/mesh/reason"
	"github.com/warren-mesh/warren/ztunnel/inpod"
)

// witnessSilence is how long the network may say nothing to a witness that connects.
const witnessSilence = 5 * time.Second

// witnessAlive finds out within 7 s that the network no longer carries a witness.
var witnessAlive = net.KeepAliveConfig{Enable: true, Idle: time.Second, Interval: time.Second, Count: 5}

// errElsewhere means that a witness reached some other process than this one, or under another address: the ztunnel
// before or after this one, or a network that translates.
var errElsewhere = errors.New("the witness did not arrive here")

// witness is a TCP connection between two pods here, through their network, from the client's to port 15008 of the
// destination's. It carries nothing. As long as it stands, the network, and any NetworkPolicy in it, lets the one talk
// to the other, which the connections that need it never show the network.
type witness struct {
	pair podPair
	from []netip.Addr // the source's addresses

	connected chan struct{} // closed when connect has an outcome; near is set then, or err
	claimed   chan struct{} // closed when the other end arrived here, as far
	ready     chan struct{} // closed when it stands, or err is set
	near, far *inpod.Conn
	err       error

	standing context.Context // ends when the network breaks it, with the cause
	fall     context.CancelCauseFunc

	users  int
	idle   *time.Timer // set while it stands and nobody uses it
	forget *time.Timer // set once it arrived elsewhere
}

// ends is the exact connection of a witness, as its accepting end sees it.
type ends struct{ src, dst netip.AddrPort }

// witnesses are those of one proxy. Safe for concurrent use.
type witnesses struct {
	proxy *Proxy

	mu     sync.Mutex
	pairs  map[podPair]*witness
	ends   map[ends]*witness // connected ones that await their claim
	closed bool
}

func newWitnesses(p *Proxy) *witnesses {
	return &witnesses{proxy: p, pairs: map[podPair]*witness{}, ends: map[ends]*witness{}}
}

// hold returns the witness of a pair, once it stands; it is raised from the source's addresses, if there is none.
// Release it. The error says why the network does not let them talk, or is errElsewhere.
func (ws *witnesses) hold(ctx context.Context, k podPair, from []netip.Addr) (*witness, error) {
	ws.mu.Lock()
	w := ws.pairs[k]
	if w == nil {
		if ws.closed {
			ws.mu.Unlock()
			return nil, errLeft
		}
		w = &witness{pair: k, from: from, connected: make(chan struct{}), claimed: make(chan struct{}), ready: make(chan struct{})}
		w.standing, w.fall = context.WithCancelCause(context.Background())
		ws.pairs[k] = w
		ws.proxy.loops.Go(func() { ws.witness(w) })
	}
	w.users++
	if w.idle != nil {
		w.idle.Stop()
		w.idle = nil
	}
	ws.mu.Unlock()
	err := error(nil)
	select {
	case <-w.ready:
		err = w.err
	case <-ctx.Done():
		err = context.Cause(ctx)
	}
	if err != nil {
		ws.release(w)
		return nil, err
	}
	return w, nil
}

// release lets go of a witness. One that nobody uses is closed after a while.
func (ws *witnesses) release(w *witness) {
	ws.mu.Lock()
	defer ws.mu.Unlock()
	w.users--
	if w.users > 0 || ws.pairs[w.pair] != w || w.err != nil {
		return
	}
	w.idle = time.AfterFunc(ws.proxy.cfg.witnessIdle, func() {
		ws.mu.Lock()
		defer ws.mu.Unlock()
		if w.users == 0 && ws.pairs[w.pair] == w {
			ws.drop(w, errIdle)
		}
	})
}

var errIdle = errors.New("nobody needs it")

// witness is the life of one: it is raised, and then watched until it breaks or is closed.
func (ws *witnesses) witness(w *witness) {
	if err := ws.raise(w); err != nil {
		ws.fail(w, err)
		return
	}
	close(w.ready)
	_, err := w.near.Read(make([]byte, 1)) // nobody writes to it
	if err == nil {
		err = errors.New("unexpected bytes")
	}
	ws.mu.Lock()
	defer ws.mu.Unlock()
	ws.drop(w, fail(reason.NetworkPolicy, "the witness from %s to %s broke: %w (maybe a NetworkPolicy no longer allows port 15008)",
		w.near.LocalAddrPort(), w.pair.to, err))
}

// raise connects, and waits for the other end.
func (ws *witnesses) raise(w *witness) error {
	p := ws.proxy
	ctx, cancel := context.WithTimeout(p.life, min(p.cfg.ConnectTimeout, witnessSilence))
	defer cancel()
	near, err := p.cfg.Sockets.Dial(ctx, w.pair.source, w.pair.to, netip.AddrPort{})
	ws.mu.Lock()
	dropped := context.Cause(w.standing)
	if err == nil {
		w.near = near
	}
	if err == nil && dropped == nil {
		ws.ends[ends{near.LocalAddrPort(), w.pair.to}] = w
	}
	close(w.connected)
	ws.mu.Unlock()
	switch {
	case err != nil:
		return dialError(err, true)
	case dropped != nil: // by who found no connection to close yet
		return dropped
	}
	if err := near.SetKeepAliveConfig(witnessAlive); err != nil {
		return fail(reason.ConnectFailure, "watch the witness to %s: %w", w.pair.to, err)
	}
	late := time.NewTimer(p.cfg.claimWait)
	defer late.Stop()
	select {
	case <-w.claimed:
		return nil
	case <-late.C:
		return errElsewhere
	case <-p.life.Done():
		return context.Cause(p.life)
	}
}

// claim takes a connection to port 15008 of a pod here that is the other end of a witness. Its addresses and ports are
// what tells: there is only one connection that has them, and this process made it. One from a pod whose witness is
// just connecting waits for the outcome, which tells its port.
func (ws *witnesses) claim(ctx context.Context, pod string, conn *inpod.Conn) bool {
	at := ends{conn.RemoteAddrPort(), conn.LocalAddrPort()}
	for {
		ws.mu.Lock()
		if w := ws.ends[at]; w != nil && w.pair.destination == pod {
			delete(ws.ends, at)
			w.far = conn
			close(w.claimed)
			ws.mu.Unlock()
			return true
		}
		connecting := ws.connecting(pod, at)
		ws.mu.Unlock()
		if connecting == nil {
			return false
		}
		select {
		case <-connecting:
		case <-ctx.Done():
			return false
		}
	}
}

// connecting finds a witness on its way that may be the one with these ends; mu is held.
func (ws *witnesses) connecting(pod string, at ends) <-chan struct{} {
	for k, w := range ws.pairs {
		if k.destination != pod || k.to != at.dst || !slices.Contains(w.from, at.src.Addr()) {
			continue
		}
		select {
		case <-w.connected:
		default:
			return w.connected
		}
	}
	return nil
}

// fail ends a witness that never stood. That it arrived elsewhere is remembered for a while.
func (ws *witnesses) fail(w *witness, err error) {
	ws.mu.Lock()
	defer ws.mu.Unlock()
	w.err = err
	close(w.ready)
	if w.near != nil {
		delete(ws.ends, ends{w.near.LocalAddrPort(), w.pair.to})
		_ = tunnelConn{w.near}.Close() // in order: who has the other end thinks that a tunnel was not wanted after all
	}
	if !errors.Is(err, errElsewhere) || ws.closed {
		ws.drop(w, err)
		return
	}
	w.forget = time.AfterFunc(ws.proxy.cfg.elsewhere, func() {
		ws.mu.Lock()
		defer ws.mu.Unlock()
		ws.drop(w, err)
	})
}

// drop forgets a witness, closes it, and ends what needs it; mu is held. Dropping it again does nothing.
func (ws *witnesses) drop(w *witness, why error) {
	if ws.pairs[w.pair] == w {
		delete(ws.pairs, w.pair)
	}
	for _, t := range []*time.Timer{w.idle, w.forget} {
		if t != nil {
			t.Stop()
		}
	}
	w.fall(why)
	for _, end := range []*inpod.Conn{w.near, w.far} {
		if end != nil {
			_ = end.Reset()
		}
	}
}

// closePod closes all witnesses of a pod.
func (ws *witnesses) closePod(uid string) {
	ws.closeIf(func(k podPair) bool { return k.source == uid || k.destination == uid })
}

// closeAll closes all, and lets no more be raised.
func (ws *witnesses) closeAll() {
	ws.mu.Lock()
	ws.closed = true
	ws.mu.Unlock()
	ws.closeIf(func(podPair) bool { return true })
}

func (ws *witnesses) closeIf(which func(podPair) bool) {
	ws.mu.Lock()
	defer ws.mu.Unlock()
	for k, w := range ws.pairs {
		if which(k) {
			ws.drop(w, errLeft)
		}
	}
}
