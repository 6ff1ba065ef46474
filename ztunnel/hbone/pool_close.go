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
func (p *Pool) GoAway() {
	for _, c := range p.remove(func(Key) bool { return true }, false) {
		c.GoAway()
	}
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
