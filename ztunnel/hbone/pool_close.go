// SPDX-License-Identifier: Apache-2.0

package hbone

import "sync"

// Connections is how many connections the pool holds.
func (p *Pool) Connections() int {
	n, _ := p.count()
	return n
}

// Streams is how many streams are open on them.
func (p *Pool) Streams() int {
	_, n := p.count()
	return n
}

func (p *Pool) count() (conns, streams int) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, e := range p.entries {
		conns += len(e.conns)
		for _, c := range e.conns {
			streams += c.client.Streams()
		}
	}
	return conns, streams
}

// ClosePod ends the connections of a pod and refuses those who wait for its dials. The pod may come back.
func (p *Pool) ClosePod(uid string) {
	p.closeWhere(func(k Key) bool { return k.PodUID == uid })
}

// CloseAll ends all connections and dials; the pool opens nothing afterwards.
func (p *Pool) CloseAll() {
	p.mu.Lock()
	p.closed = true
	if p.sweeper != nil {
		p.sweeper.Stop()
	}
	p.mu.Unlock()
	p.stop(ErrPoolClosed)
	p.closeWhere(func(Key) bool { return true })
}

// GoAway lets all connections end with their streams. Later streams get connections of their own.
func (p *Pool) GoAway() { p.goAway(func(Key) bool { return true }) }

// GoAwayFrom is GoAway for the connections that speak with one source identity.
func (p *Pool) GoAwayFrom(source string) { p.goAway(func(k Key) bool { return k.Source == source }) }

func (p *Pool) goAway(match func(Key) bool) {
	for _, c := range p.remove(match, false) {
		c.GoAway()
	}
}

// Recheck ends the connections that are no longer trusted, and what lives on them; it returns how many.
func (p *Pool) Recheck() int {
	if p.config.Trusted == nil {
		return 0
	}
	type verdict struct {
		client *ClientConn
		err    error
	}
	var ended []verdict
	p.mu.Lock()
	for key, e := range p.entries {
		kept := e.conns[:0]
		for _, c := range e.conns {
			if err := p.config.Trusted(key, c.client.conn.records.ConnectionState()); err != nil {
				ended = append(ended, verdict{c.client, err})
				continue
			}
			kept = append(kept, c)
		}
		clear(e.conns[len(kept):])
		e.conns = kept
		p.tidy(key, e)
	}
	p.mu.Unlock()
	var all sync.WaitGroup
	for _, v := range ended {
		all.Go(func() { v.client.end(v.err) })
	}
	all.Wait()
	return len(ended)
}

func (p *Pool) closeWhere(match func(Key) bool) {
	var all sync.WaitGroup
	for _, c := range p.remove(match, true) {
		all.Go(func() { _ = c.Close() }) // each may take a moment to say why
	}
	all.Wait()
}

// remove takes entries out of the pool; dials under way count as failed if asked.
func (p *Pool) remove(match func(Key) bool, dials bool) []*ClientConn {
	p.mu.Lock()
	defer p.mu.Unlock()
	var clients []*ClientConn
	for key, e := range p.entries {
		if !match(key) {
			continue
		}
		for _, c := range e.conns {
			clients = append(clients, c.client)
		}
		e.conns = nil
		if d := e.dialing; d != nil && dials {
			d.err = ErrPoolClosed
			close(d.done)
			e.dialing = nil
		}
		if e.dialing == nil {
			delete(p.entries, key)
		}
	}
	return clients
}
