// SPDX-License-Identifier: Apache-2.0

package hbone

import (
	"encoding/binary"
	"fmt"
	"time"
)

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

func (r *reader) onSettings(h frameHeader, b []byte) error {
	c := r.conn
	if h.stream != 0 {
		return connError(CodeProtocol, "SETTINGS on a stream")
	}
	if h.has(flagAck) {
		if len(b) > 0 {
			return connError(CodeFrameSize, "SETTINGS acknowledgement with a payload")
		}
		c.mu.Lock()
		if !c.settingT.IsZero() {
			c.sampleRTT(time.Since(c.settingT))
			c.settingT = time.Time{}
		}
		c.mu.Unlock()
		return r.flood.draw("SETTINGS")
	}
	if len(b)%6 != 0 {
		return connError(CodeFrameSize, "SETTINGS of %d bytes", len(b))
	}
	c.mu.Lock()
	for ; len(b) > 0; b = b[6:] {
		if err := c.setting(binary.BigEndian.Uint16(b), binary.BigEndian.Uint32(b[2:])); err != nil {
			c.mu.Unlock()
			return err
		}
	}
	first := false
	select {
	case <-c.settled:
	default:
		first = true
		if !c.peerLimited {
			c.peerMax = maxID
		}
		close(c.settled)
	}
	*c.pend() = appendFrame(*c.pend(), frameSettings, flagAck, 0, nil)
	c.wakeWriters()
	c.mu.Unlock()
	if first {
		c.notify()
		return nil
	}
	return r.flood.draw("SETTINGS")
}

// setting applies one of the peer's settings; mu is held.
func (c *conn) setting(id uint16, v uint32) error {
	switch id {
	case settingHeaderTableSize:
		c.encoder.SetMaxDynamicTableSizeLimit(min(v, 4096))
		c.encoder.SetMaxDynamicTableSize(min(v, 4096))
	case settingEnablePush:
		if v > 1 || v == 1 && c.client {
			return connError(CodeProtocol, "ENABLE_PUSH is %d", v)
		}
	case settingMaxStreams:
		c.peerMax, c.peerLimited = v, true
	case settingInitialWindowSize:
		if v > maxWindow {
			return connError(CodeFlowControl, "INITIAL_WINDOW_SIZE is %d", v)
		}
		delta := int64(v) - c.peerInitial
		c.peerInitial = int64(v)
		for _, s := range c.streams {
			if s.sendWindow += delta; s.sendWindow > maxWindow {
				return connError(CodeFlowControl, "INITIAL_WINDOW_SIZE overflows stream %d", s.id)
			}
		}
	case settingMaxFrameSize:
		if v < maxFrame || v > 1<<24-1 {
			return connError(CodeProtocol, "MAX_FRAME_SIZE is %d", v)
		}
	}
	return nil
}

func (r *reader) onPing(h frameHeader, b []byte) error {
	c := r.conn
	if h.stream != 0 {
		return connError(CodeProtocol, "PING on a stream")
	}
	if len(b) != 8 {
		return connError(CodeFrameSize, "PING of %d bytes", len(b))
	}
	if h.has(flagAck) {
		c.pong([8]byte(b))
		return r.flood.draw("PING")
	}
	c.mu.Lock()
	pending := c.pend()
	*pending = appendFrame(*pending, framePing, flagAck, 0, b)
	most := len(*pending) > pendingMost
	c.mu.Unlock()
	if most {
		return connError(CodeEnhanceYourCalm, "answers pile up unread")
	}
	return r.flood.draw("PING")
}

// pong takes the answer to one of our PINGs.
func (c *conn) pong(data [8]byte) {
	switch data {
	case pingAlive:
		c.mu.Lock()
		if !c.pinged.IsZero() {
			c.sampleRTT(time.Since(c.pinged))
		}
		c.mu.Unlock()
	case pingAway:
		c.mu.Lock()
		if c.awaySent && !c.final {
			c.final = true
			*c.pend() = appendGoAway(*c.pend(), c.lastID, CodeNo, "")
		}
		c.mu.Unlock()
		c.closeIfDrained()
	}
}

// sampleRTT keeps the shortest round trip seen; mu is held.
func (c *conn) sampleRTT(d time.Duration) {
	if old := c.rtt.Load(); old == 0 || int64(d) < old {
		c.rtt.Store(int64(d))
	}
}

func (c *conn) roundTrip() time.Duration { return time.Duration(c.rtt.Load()) }

func (r *reader) onGoAway(h frameHeader, b []byte) error {
	c := r.conn
	if h.stream != 0 {
		return connError(CodeProtocol, "GOAWAY on a stream")
	}
	if len(b) < 8 {
		return connError(CodeFrameSize, "GOAWAY of %d bytes", len(b))
	}
	last, code := binary.BigEndian.Uint32(b)&maxID, Code(binary.BigEndian.Uint32(b[4:]))
	if code != CodeNo {
		return fmt.Errorf("peer ended the connection: %s: %.100q", code, b[8:])
	}
	c.mu.Lock()
	c.away = true
	var refused []*Stream
	if c.client {
		for id, s := range c.streams {
			if id > last {
				refused = append(refused, s)
			}
		}
	}
	c.mu.Unlock()
	for _, s := range refused {
		c.abort(s, &ResetError{Code: CodeRefusedStream, Cause: "connection is going away"})
	}
	c.notify()
	c.closeIfDrained()
	return r.flood.draw("GOAWAY")
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
	c.wakeWriters()
	return nil
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
	answered := s.answered.Load()
	c.abort(s, &ResetError{Code: Code(binary.BigEndian.Uint32(b))})
	if !answered && !c.client {
		return r.flood.draw("RST_STREAM before an answer")
	}
	return nil
}
