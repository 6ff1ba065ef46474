// SPDX-License-Identifier: Apache-2.0

package proxy

import (
	"errors"
	"net"
	"time"

	"github.com/warren-mesh/warren/ztunnel/inpod"
)

// acceptors is how many loops take connections from one listener: one can hand over while the other accepts.
const acceptors = 2

// accept serves connections of one listener until it is closed. Running out of descriptors, or a listener that
// the broker is about to revive, is waited out.
func (p *Proxy) accept(pd *pod, l listener, serve func(*pod, *inpod.Conn)) {
	const shortest, longest = 5 * time.Millisecond, time.Second
	pause := shortest
	for {
		c, err := l.Accept()
		switch {
		case err == nil:
			pause = shortest
			p.spawn(pd, c, serve)
			continue
		case errors.Is(err, net.ErrClosed):
			return
		}
		p.log.Warn("accept failed", "pod", pd.uid, "err", err, "pause", pause)
		select {
		case <-time.After(pause):
		case <-pd.life.Done():
			return
		}
		pause = min(2*pause, longest)
	}
}

// spawn serves c in a goroutine of its own.
func (p *Proxy) spawn(pd *pod, c *inpod.Conn, serve func(*pod, *inpod.Conn)) {
	if !p.enter() {
		_ = c.Reset()
		return
	}
	go func() {
		defer p.work.Done()
		serve(pd, c)
	}()
}

// enter adds to work, unless the proxy waits for the last of it already.
func (p *Proxy) enter() bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.closed {
		return false
	}
	p.work.Add(1)
	return true
}
