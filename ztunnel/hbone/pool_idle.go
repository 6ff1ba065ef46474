// SPDX-License-Identifier: Apache-2.0

package hbone

import "time"

// changed follows a stream's or a connection's end.
func (p *Pool) changed(key Key) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if e := p.entries[key]; e != nil {
		p.tidy(key, e)
	}
}

// tidy drops connections that take no more streams, and notes which have none; mu is held.
func (p *Pool) tidy(key Key, e *entry) {
	kept := e.conns[:0]
	for _, c := range e.conns {
		streams, leaving := c.client.conn.use()
		if leaving {
			continue // it closes by itself when its streams have ended
		}
		if streams > 0 {
			c.idle = time.Time{}
		} else if c.idle.IsZero() {
			c.idle = p.config.Now()
		}
		kept = append(kept, c)
	}
	clear(e.conns[len(kept):])
	e.conns = kept
	if len(e.conns) == 0 && e.dialing == nil && p.entries[key] == e {
		delete(p.entries, key)
	}
}

func (c *conn) use() (streams int, leaving bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	return len(c.streams), c.err != nil || c.away
}

// schedule sees that idle connections are looked for while there are any; mu is held.
func (p *Pool) schedule() {
	if p.sweeper == nil && !p.closed {
		p.sweeper = time.AfterFunc(p.config.IdleTimeout/10, p.sweepLater)
	}
}

func (p *Pool) sweepLater() {
	p.mu.Lock()
	p.sweeper = nil
	if len(p.entries) > 0 {
		p.schedule()
	}
	p.mu.Unlock()
	p.sweep()
}

// sweep releases connections that were idle for the whole timeout.
func (p *Pool) sweep() {
	p.mu.Lock()
	var idle []*ClientConn
	for key, e := range p.entries {
		p.tidy(key, e)
		for _, c := range e.conns {
			if !c.idle.IsZero() && p.config.Now().Sub(c.idle) >= p.config.IdleTimeout {
				idle = append(idle, c.client)
			}
		}
	}
	p.mu.Unlock()
	for _, c := range idle {
		c.GoAway() // a stream that was faster still lives to its end
	}
}
