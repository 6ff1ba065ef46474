// SPDX-License-Identifier: Apache-2.0

package inpod

import (
	"context"
	"fmt"
	"math"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"github.com/warren-mesh/warren/mesh/broker"
)

const (
	idleSockets = 4                     // kept for a pod that dials nothing
	lookAhead   = 25 * time.Millisecond // of dials that the pool holds sockets for: a batch arrives well within
	rateHorizon = 250 * time.Millisecond
	repeatAsk   = 50 * time.Millisecond // after a refusal that names no time
)

// dialSocket is an unconnected socket.
type dialSocket struct {
	fd       int
	ipv4Only bool
}

// pool holds a pod's unconnected sockets. It asks for more while there still are some.
type pool struct {
	pod string
	ask func(pod string, n int) bool // false while no broker is connected

	mu      sync.Mutex
	free    []dialSocket // last in, first out: the warm end
	pending int          // asked for, not answered
	waiters []chan dialSocket
	gone    bool
	paused  bool // by the broker's RetryAfter

	rate float64 // dials per second, decaying
	last time.Time
}

func newPool(pod string, ask func(string, int) bool) *pool {
	return &pool{pod: pod, ask: ask}
}

// get takes a socket, waiting for the broker if there is none.
func (p *pool) get(ctx context.Context, wait time.Duration) (dialSocket, error) {
	p.mu.Lock()
	if p.gone {
		p.mu.Unlock()
		return dialSocket{}, ErrPodGone
	}
	p.count(time.Now())
	if n := len(p.free); n > 0 {
		s := p.free[n-1]
		p.free = p.free[:n-1]
		want := p.wanted()
		p.mu.Unlock()
		p.request(want)
		return s, nil
	}
	w := make(chan dialSocket, 1)
	p.waiters = append(p.waiters, w)
	want := p.wanted()
	p.mu.Unlock()
	p.request(want)

	t := time.NewTimer(wait)
	defer t.Stop()
	var err error
	select {
	case s, ok := <-w:
		if !ok {
			return dialSocket{}, ErrPodGone
		}
		return s, nil
	case <-ctx.Done():
		err = ctx.Err()
	case <-t.C:
		err = fmt.Errorf("%w within %v", ErrNoSocket, wait)
	}
	p.leave(w)
	return dialSocket{}, err
}

// leave takes a waiter out of the queue; a socket that came at the last moment goes back.
func (p *pool) leave(w chan dialSocket) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for i, o := range p.waiters {
		if o == w {
			p.waiters = append(p.waiters[:i], p.waiters[i+1:]...)
			return
		}
	}
	if s, ok := <-w; ok {
		p.put(s)
	}
}

// count adds one dial to the rate.
func (p *pool) count(now time.Time) {
	p.rate = p.rateAt(now) + 1/rateHorizon.Seconds()
	p.last = now
}

func (p *pool) rateAt(now time.Time) float64 {
	return p.rate * math.Exp(-float64(now.Sub(p.last))/float64(rateHorizon))
}

// lowWater is how many sockets should be free or on their way.
func (p *pool) lowWater(now time.Time) int {
	n := int(math.Ceil(p.rateAt(now) * lookAhead.Seconds()))
	return min(max(n, idleSockets), broker.MaxFDs)
}

// wanted is how many sockets to ask for now, noted as pending; 0 when enough are free or on their way. The
// caller holds mu, lets go of it, and then calls request.
func (p *pool) wanted() int {
	if p.gone || p.paused {
		return 0
	}
	low := p.lowWater(time.Now())
	have := len(p.free) + p.pending - len(p.waiters)
	if have >= low {
		return 0
	}
	// Twice the low water, so that a steady stream asks about once per lookAhead.
	n := 2*low - have
	if low == idleSockets && have >= 0 {
		n = low - have
	}
	n = min(n, broker.MaxFDs)
	p.pending += n
	return n
}

// request asks for what wanted said. Without a broker nothing is pending: the next one is asked anew.
func (p *pool) request(n int) {
	if n == 0 || p.ask(p.pod, n) {
		return
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	p.pending = max(p.pending-n, 0)
}

// give takes an answer in.
func (p *pool) give(m broker.Sockets, fds []int) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.pending = max(p.pending-m.Asked, 0)
	if p.gone {
		broker.CloseFDs(fds)
		return
	}
	for _, fd := range fds {
		p.put(dialSocket{fd: fd, ipv4Only: m.IPv4Only})
	}
	if len(fds) >= m.Asked {
		return
	}
	pause := time.Duration(m.RetryAfter) * time.Millisecond
	if pause <= 0 {
		pause = repeatAsk
	}
	p.paused = true
	time.AfterFunc(pause, p.resume)
}

func (p *pool) resume() {
	p.mu.Lock()
	p.paused = false
	want := p.wanted()
	p.mu.Unlock()
	p.request(want)
}

// put hands a socket to the first waiter or keeps it. The caller holds mu.
func (p *pool) put(s dialSocket) {
	if p.gone {
		unix.Close(s.fd)
		return
	}
	if len(p.waiters) > 0 {
		p.waiters[0] <- s
		p.waiters = p.waiters[1:]
		return
	}
	p.free = append(p.free, s)
}

// reconnected starts over with a broker that knows of no request.
func (p *pool) reconnected() {
	p.mu.Lock()
	p.pending = 0
	want := p.wanted()
	p.mu.Unlock()
	p.request(want)
}

// shrink closes sockets that a rate gone by had asked for: idle ones pin the pod's namespace and cost 4 KiB.
func (p *pool) shrink(now time.Time) {
	p.mu.Lock()
	defer p.mu.Unlock()
	keep := 2 * p.lowWater(now)
	for len(p.free) > keep {
		unix.Close(p.free[0].fd)
		p.free = p.free[1:]
	}
}

// unused reports whether nobody waits, nor dialled within the last second.
func (p *pool) unused(now time.Time) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return len(p.waiters) == 0 && now.Sub(p.last) > time.Second
}

// close closes what is free and fails who waits.
func (p *pool) close() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.gone = true
	for _, s := range p.free {
		unix.Close(s.fd)
	}
	p.free = nil
	for _, w := range p.waiters {
		close(w)
	}
	p.waiters = nil
}
