// SPDX-License-Identifier: Apache-2.0

package proxy

import (
	"errors"
	"net"
	"time"

	"github.com/warren-mesh/warren/ztunnel/inpod"
)

// serveFunc carries one accepted connection to its end, which is that of the pod's stay at the latest, or until it only
// has to be relayed.
type serveFunc func(stay life, pd *pod, c *inpod.Conn) *relaying

// acceptors is how many loops take connections from one listener: one can hand over while the other accepts.
const acceptors = 2

// accept serves connections of one listener until it is closed. Running out of descriptors, or a listener that
// the broker is about to revive, is waited out. Each connection takes one of slots, unless that is nil, and serve
// gives it back: while there is none the others wait in the kernel.
func (p *Proxy) accept(stay life, pd *pod, l listener, serve serveFunc, slots chan struct{}) {
	const shortest, longest = 5 * time.Millisecond, time.Second
	pause := shortest
	for {
		c, err := l.Accept()
		switch {
		case err == nil:
			pause = shortest
			if slots != nil {
				select {
				case slots <- struct{}{}:
				case <-stay.Done():
					_ = c.Reset()
					continue
				}
			}
			p.spawn(stay, pd, c, serve)
			continue
		case errors.Is(err, net.ErrClosed):
			return
		}
		p.log.Warn("accept failed", "pod", pd.uid, "err", err, "pause", pause)
		select {
		case <-time.After(pause):
		case <-stay.Done():
			return
		}
		pause = min(2*pause, longest)
	}
}

// spawn serves c beside the caller.
func (p *Proxy) spawn(stay life, pd *pod, c *inpod.Conn, serve serveFunc) {
	if !p.enter() {
		_ = c.Reset()
		return
	}
	p.workers.do(func() {
		if r := serve(stay, pd, c); r != nil {
			r.start(p)
			return
		}
		p.leaveWork()
	})
}

// enter adds to work, unless the proxy waits for the last of it already.
func (p *Proxy) enter() bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.closed {
		return false
	}
	p.work.Add(1)
	p.active.Add(1)
	return true
}

func (p *Proxy) leaveWork() {
	p.active.Add(-1)
	p.work.Done()
}
