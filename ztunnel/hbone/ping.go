// SPDX-License-Identifier: Apache-2.0

package hbone

import (
	"errors"
	"time"
)

// keepalive asks for a sign of life, and ends a connection that gave none in time. Anything that arrives is one.
func (c *conn) keepalive() {
	c.mu.Lock()
	if c.err != nil {
		c.mu.Unlock()
		return
	}
	alive := c.heard.Swap(false)
	if alive || c.pinged.IsZero() {
		c.pinged = time.Now()
		c.appendPing(pingAlive)
	} else if time.Since(c.pinged) >= c.config.PingTimeout {
		c.mu.Unlock()
		_ = c.fail(errors.New("no answer to ping"))
		return
	}
	next := c.config.PingInterval
	if !alive {
		next = min(next, max(time.Until(c.pinged.Add(c.config.PingTimeout)), time.Millisecond))
	}
	c.timer.Reset(next)
	c.mu.Unlock()
	c.flush()
}

func (c *conn) appendPing(data [8]byte) {
	b := c.pend()
	*b = appendFrame(*b, framePing, 0, 0, data[:])
}

var (
	pingAlive = [8]byte{'w', 'a', 'r', 'r', 'e', 'n', 0, 1}
	pingAway  = [8]byte{'w', 'a', 'r', 'r', 'e', 'n', 0, 2}
)

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
	pending := c.reply()
	*pending = appendFrame(*pending, framePing, flagAck, 0, b)
	c.mu.Unlock()
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
