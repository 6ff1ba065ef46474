// SPDX-License-Identifier: Apache-2.0

package hbone

// waiters are the streams of a connection that wait for window, in the order they came: when the connection's window
// is scarce nobody is passed over. They are linked through the streams, so that one leaves without a search. Guarded by
// conn.mu.
type waiters struct{ first, last *Stream }

// add appends a stream, unless it waits already.
func (w *waiters) add(s *Stream) {
	if s.waiting {
		return
	}
	s.waiting, s.before, s.behind = true, w.last, nil
	if w.last == nil {
		w.first = s
	} else {
		w.last.behind = s
	}
	w.last = s
}

// remove takes a stream out, if it waits.
func (w *waiters) remove(s *Stream) {
	if !s.waiting {
		return
	}
	if s.before == nil {
		w.first = s.behind
	} else {
		s.before.behind = s.behind
	}
	if s.behind == nil {
		w.last = s.before
	} else {
		s.behind.before = s.before
	}
	s.waiting, s.before, s.behind = false, nil, nil
}

// wakeWriters wakes the streams that have window again after the connection's has grown, or all of theirs; mu is held.
func (c *conn) wakeWriters() {
	for s := c.waiters.first; s != nil; {
		next := s.behind
		c.wakeWriter(s)
		s = next
	}
}

// wakeWriter wakes a stream that waits and has window again, or whose end came; mu is held.
func (c *conn) wakeWriter(s *Stream) {
	if !s.waiting || s.writable() == nil && s.open(1) <= 0 {
		return
	}
	c.waiters.remove(s)
	s.wake.Broadcast()
}
