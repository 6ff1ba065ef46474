// SPDX-License-Identifier: Apache-2.0

package hbone

import "sync"

const (
	pendingSize = 4 << 10
	// pendingKept is the largest pending buffer that goes back to the pool.
	pendingKept = 64 << 10
	// pendingFull makes writers of small frames wait for their turn to write.
	pendingFull = 256 << 10
	// repliesMost is how many answers may pile up for a peer that sends but doesn't read: several for each stream
	// that it may have open.
	repliesMost = 16 << 10
)

var pendingPool = sync.Pool{New: func() any { b := make([]byte, 0, pendingSize); return &b }}

// pend returns the pending buffer to append to; mu is held.
func (c *conn) pend() *[]byte {
	if c.pending == nil {
		c.pending = pendingPool.Get().(*[]byte)
	}
	return c.pending
}

// reply is pend for what the peer made us say.
func (c *conn) reply() *[]byte {
	c.replies++
	return c.pend()
}

// overdrawn is the fault of a peer that has left too many answers unread.
func (c *conn) overdrawn() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.replies > repliesMost {
		return connError(CodeEnhanceYourCalm, "answers pile up unread")
	}
	return nil
}

func (c *conn) takePending() *[]byte {
	b := c.pending
	c.pending, c.replies = nil, 0
	return b
}

func givePending(b *[]byte) {
	if cap(*b) <= pendingKept {
		*b = (*b)[:0]
		pendingPool.Put(b)
	}
}

func (c *conn) dropPending() {
	if b := c.takePending(); b != nil {
		givePending(b)
	}
}

func (c *conn) hasPending() (some, crowded bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.mute {
		c.dropPending()
	}
	if c.pending == nil {
		return false, false
	}
	return true, len(*c.pending) > pendingFull
}

// flush writes the pending frames, or leaves them to whoever is writing now. It waits only for the socket.
func (c *conn) flush() {
	for {
		if some, _ := c.hasPending(); !some || !c.writing.TryLock() {
			return
		}
		c.writePending()
		c.writing.Unlock()
	}
}

// flushWait is flush that takes its turn: what was pending at the call is written when it returns.
func (c *conn) flushWait() {
	c.writing.Lock()
	c.writePending()
	c.writing.Unlock()
	c.flush()
}

// kick is flush for the reading goroutine, which must not wait for the socket.
func (c *conn) kick() {
	if some, _ := c.hasPending(); some && c.writing.TryLock() {
		go func() {
			c.writePending()
			c.writing.Unlock()
			c.flush()
		}()
	}
}

// writePending writes with the token held.
func (c *conn) writePending() {
	c.mu.Lock()
	b := c.takePending()
	mute := c.mute
	c.mu.Unlock()
	if !mute {
		c.write(b)
	}
}

func (c *conn) write(b *[]byte) {
	if b == nil {
		return
	}
	err := c.records.Write(*b)
	givePending(b)
	if err != nil {
		c.failWriting(err)
	}
}

// failWriting ends the connection from beneath the write token, which fail may want.
func (c *conn) failWriting(err error) {
	c.mu.Lock()
	ended := c.err != nil
	c.mu.Unlock()
	if !ended {
		_ = c.fail(err)
	}
}
