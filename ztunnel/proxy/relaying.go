// SPDX-License-Identifier: Apache-2.0

package proxy

import "sync/atomic"

// relaying is an established connection of which nothing is left but to relay it, and what to do at its end. Both
// directions are carried until both ended in order, or one broke: then both sides are aborted, so that neither application
// takes a broken connection for a finished one. It takes two goroutines of little stack: whoever made it goes on to
// something else.
type relaying struct {
	client, server side
	moved          *moved
	end            func(error) error // gets how it ended; may return another error for what comes after
	proxy          *Proxy
	left           atomic.Int32 // directions
	up, down       error
	done           chan struct{} // closed at the end; nil if nobody waits
}

// start relays, and leaves p's work when that is over.
func (r *relaying) start(p *Proxy) {
	r.prepare(p)
	go r.relayUp()
	go r.relayDown()
}

// run is start, and returns when it is over.
func (r *relaying) run(p *Proxy) {
	r.prepare(p)
	r.done = make(chan struct{})
	go r.relayDown()
	r.relayUp()
	<-r.done
}

func (r *relaying) prepare(p *Proxy) {
	countStreams(r.client, r.server, r.moved)
	r.proxy = p
	r.left.Store(2)
}

func (r *relaying) relayUp() {
	r.up = copyUntilEnd(r.server, r.client, &r.moved.up)
	r.ended()
}

func (r *relaying) relayDown() {
	r.down = copyUntilEnd(r.client, r.server, &r.moved.down)
	r.ended()
}

// ended counts a direction; a worker sees to the rest.
func (r *relaying) ended() {
	if r.left.Add(-1) == 0 {
		r.proxy.workers.do(r.over)
	}
}

func (r *relaying) over() {
	_ = r.end(conclude(r.client, r.server, r.up, r.down))
	r.proxy.leaveWork()
	if r.done != nil {
		close(r.done)
	}
}

// finishAfter finishes the connection after r, which it returns, or now where there is none.
func (c *connection) finishAfter(r *relaying, err error) *relaying {
	if r == nil {
		c.finish(err)
		return nil
	}
	before := r.end
	r.end = func(err error) error {
		if before != nil {
			err = before(err)
		}
		c.finish(err)
		return err
	}
	return r
}
