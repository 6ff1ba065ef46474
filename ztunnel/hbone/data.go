// SPDX-License-Identifier: Apache-2.0

package hbone

// beginData accounts for a DATA frame when its header is known: flow control counts it whole, padding included.
func (r *reader) beginData(h frameHeader) error {
	c := r.conn
	if h.stream == 0 {
		return connError(CodeProtocol, "DATA on stream 0")
	}
	if h.length > 0 {
		r.flood.earn()
	} else if !h.has(flagEndStream) {
		if err := r.flood.draw("empty DATA"); err != nil {
			return err
		}
	}
	if h.has(flagPadded) {
		if h.length == 0 {
			return connError(CodeFrameSize, "padded DATA without a length of padding")
		}
		r.pad = -1
	}
	if !r.window.receive(h.length) {
		return connError(CodeFlowControl, "DATA beyond the connection's window")
	}
	if credit := r.window.consume(h.length, maxConnWindow, c.roundTrip()); credit > 0 {
		c.mu.Lock()
		*c.pend() = appendUint32Frame(*c.pend(), frameWindowUpdate, 0, credit)
		c.mu.Unlock()
	}
	if r.stream == nil || r.stream.id != h.stream {
		r.deliver()
		var err error
		if r.stream, err = r.lookup(h); err != nil {
			return err
		}
	}
	if r.stream == nil {
		return c.strayData(h.length)
	}
	return r.streamError(r.stream.arrive(h))
}

// lookup finds the stream of a DATA frame; nil for one that is closed.
func (r *reader) lookup(h frameHeader) (*Stream, error) {
	c := r.conn
	c.mu.Lock()
	defer c.mu.Unlock()
	if s := c.streams[h.stream]; s != nil {
		return s, nil
	}
	if c.idle(h.stream) {
		return nil, connError(CodeProtocol, "DATA on idle stream %d", h.stream)
	}
	return nil, nil
}

// idle tells whether nobody has opened the stream yet; mu is held.
func (c *conn) idle(id uint32) bool {
	if id%2 == 1 == c.client {
		return id >= c.nextID || !c.client
	}
	return c.client || id > c.lastID
}

// strayData accounts for DATA on closed streams. After we reset a stream its peer may still send what its window
// allowed; more than that, over all streams, is no honest peer's.
func (c *conn) strayData(n int) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.stray -= int64(n); c.stray < 0 {
		return connError(CodeStreamClosed, "DATA on closed streams")
	}
	return nil
}

// data takes the payload of a DATA frame.
func (r *reader) data(p []byte) ([]byte, error) {
	if r.pad < 0 {
		r.pad = int(p[0])
		p = p[1:]
		r.rest -= 1 + r.pad
		if r.rest < 0 {
			return nil, connError(CodeProtocol, "padding longer than its frame")
		}
		if r.stream != nil {
			r.stream.skip(1 + r.pad)
		}
	}
	if n := min(len(p), r.rest); n > 0 {
		if r.stream != nil {
			r.pieces = append(r.pieces, p[:n])
		}
		r.rest -= n
		p = p[n:]
	}
	if r.rest == 0 {
		n := min(len(p), r.pad)
		r.pad -= n
		p = p[n:]
		if r.pad == 0 {
			return p, r.endData()
		}
	}
	return p, nil
}

func (r *reader) endData() error {
	r.inside = false
	s := r.stream
	if s == nil {
		return nil
	}
	if r.frame.has(flagEndStream) {
		r.deliver()
		s.arriveEnd()
	} else if len(r.pieces) >= maxPieces {
		r.deliver()
	}
	return nil
}

// deliver hands the gathered pieces to their stream.
func (r *reader) deliver() {
	if len(r.pieces) > 0 && r.stream != nil {
		r.stream.deliver(r.pieces)
	}
	clear(r.pieces)
	r.pieces = r.pieces[:0]
	if !r.inside {
		r.stream = nil // it may end before its next frame comes
	}
}

// streamError resets the stream for a fault that is its own; other faults pass.
func (r *reader) streamError(err error) error {
	fault, ok := err.(*StreamError)
	if !ok {
		return err
	}
	c := r.conn
	c.mu.Lock()
	s := c.streams[fault.Stream]
	c.mu.Unlock()
	if r.stream != nil && r.stream.id == fault.Stream {
		r.stream = nil
		clear(r.pieces)
		r.pieces = r.pieces[:0]
	}
	if s != nil {
		c.reset(s, &ResetError{Code: fault.Code, Local: true, Cause: fault.Cause})
		return nil
	}
	c.mu.Lock()
	c.stray += streamWindow
	c.strayHeads++
	*c.reply() = appendUint32Frame(*c.pend(), frameReset, fault.Stream, uint32(fault.Code))
	c.mu.Unlock()
	return r.flood.draw("stream errors")
}
