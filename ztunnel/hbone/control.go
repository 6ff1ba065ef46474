// SPDX-License-Identifier: Apache-2.0

package hbone

import "encoding/binary"

// handle takes a whole frame other than DATA.
func (r *reader) handle(b []byte) error {
	h := r.frame
	switch h.typ {
	case frameHeaders:
		return r.streamError(r.onHeaders(h, b))
	case frameContinuation:
		return r.streamError(r.onContinuation(h, b))
	case frameSettings:
		return r.onSettings(h, b)
	case framePing:
		return r.onPing(h, b)
	case frameGoAway:
		return r.onGoAway(h, b)
	case frameWindowUpdate:
		return r.streamError(r.onWindowUpdate(h, b))
	case frameReset:
		return r.onReset(h, b)
	case framePushPromise:
		return connError(CodeProtocol, "PUSH_PROMISE")
	case framePriority:
		return r.onPriority(h, b)
	}
	return r.flood.draw("frames of unknown type")
}

func (r *reader) onPriority(h frameHeader, b []byte) error {
	if h.stream == 0 {
		return connError(CodeProtocol, "PRIORITY on stream 0")
	}
	if len(b) != 5 {
		return r.streamError(&StreamError{h.stream, CodeFrameSize, "PRIORITY is not 5 bytes"})
	}
	return r.flood.draw("PRIORITY")
}

func (r *reader) onReset(h frameHeader, b []byte) error {
	c := r.conn
	if h.stream == 0 {
		return connError(CodeProtocol, "RST_STREAM on stream 0")
	}
	if len(b) != 4 {
		return connError(CodeFrameSize, "RST_STREAM of %d bytes", len(b))
	}
	c.mu.Lock()
	s := c.streams[h.stream]
	idle := s == nil && c.idle(h.stream)
	c.mu.Unlock()
	if idle {
		return connError(CodeProtocol, "RST_STREAM on idle stream %d", h.stream)
	}
	r.deliver()
	if s == nil {
		return r.flood.draw("RST_STREAM on closed streams")
	}
	answered, code := s.answered.Load(), Code(binary.BigEndian.Uint32(b))
	if c.client && code == CodeNo && s.remoteEnded() {
		c.hadEnough(s)
		return nil
	}
	c.abort(s, &ResetError{Code: code})
	if !answered && !c.client {
		return r.flood.draw("RST_STREAM before an answer")
	}
	return nil
}

func (r *reader) onWindowUpdate(h frameHeader, b []byte) error {
	c := r.conn
	if len(b) != 4 {
		return connError(CodeFrameSize, "WINDOW_UPDATE of %d bytes", len(b))
	}
	n := int64(binary.BigEndian.Uint32(b) & maxWindow)
	c.mu.Lock()
	defer c.mu.Unlock()
	if h.stream == 0 {
		if n == 0 {
			return connError(CodeProtocol, "WINDOW_UPDATE of 0")
		}
		if c.sendWindow += n; c.sendWindow > maxWindow {
			return connError(CodeFlowControl, "connection's window overflows")
		}
		c.wakeWriters()
		return nil
	}
	s := c.streams[h.stream]
	switch {
	case s == nil && c.idle(h.stream):
		return connError(CodeProtocol, "WINDOW_UPDATE on idle stream %d", h.stream)
	case s == nil:
		return nil
	case n == 0:
		return &StreamError{h.stream, CodeProtocol, "WINDOW_UPDATE of 0"}
	}
	if s.sendWindow += n; s.sendWindow > maxWindow {
		return &StreamError{h.stream, CodeFlowControl, "stream's window overflows"}
	}
	c.wakeWriter(s) // the others' window is what it was
	return nil
}
