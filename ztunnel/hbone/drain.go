// SPDX-License-Identifier: Apache-2.0

package hbone

import (
	"encoding/binary"
	"errors"
	"fmt"
	"time"
)

// goAway begins an orderly end: no new streams, live ones finish, then the connection closes. A server first
// says so without a number, for streams may be on their way; the number follows when the peer's PING came back.
func (c *conn) goAway() {
	c.mu.Lock()
	if !c.started { // SETTINGS come first
		c.awayAtStart = true
		c.mu.Unlock()
		return
	}
	if c.err != nil || c.awaySent {
		c.mu.Unlock()
		return
	}
	c.awaySent = true
	if c.client {
		c.away, c.final = true, true
		*c.pend() = appendGoAway(*c.pend(), 0, CodeNo, "")
	} else {
		*c.pend() = appendGoAway(*c.pend(), maxID, CodeNo, "")
		c.appendPing(pingAway)
	}
	c.mu.Unlock()
	c.kick()
	c.notify()
	c.closeIfDrained()
}

// goAwayAtExpiry sees that no stream begins on what a certificate proved that is no longer valid. Live streams go on:
// they were let in while it was. mu is held.
func (c *conn) goAwayAtExpiry() {
	if certs := c.records.ConnectionState().PeerCertificates; len(certs) > 0 {
		c.expiry = time.AfterFunc(time.Until(certs[0].NotAfter), c.goAway)
	}
}

// linger is how long a drained connection waits for its peer to end, too.
const linger = 5 * time.Second

// closeIfDrained ends a connection that was to go away and has no streams left. It ends only this side and goes on
// reading: a socket that is closed answers what still comes, be it a WINDOW_UPDATE, with a reset, and that would
// cost the peer what it has not read yet.
func (c *conn) closeIfDrained() {
	c.mu.Lock()
	drained := len(c.streams) == 0 && c.handlers == 0 && c.err == nil && (c.final || c.client && c.away)
	if !drained || c.finished {
		c.mu.Unlock()
		return
	}
	c.finished = true
	c.mu.Unlock()
	go func() { // the write token is waited for elsewhere: the reader must not
		c.writing.Lock()
		c.writePending()
		_ = c.records.CloseWrite()
		c.mu.Lock()
		c.mute = true
		c.mu.Unlock()
		c.writing.Unlock()
		time.AfterFunc(linger, func() { _ = c.fail(errDrained) })
	}()
}

// Causes of an orderly end.
var (
	errDrained = errors.New("drained")
	errLeft    = errors.New("peer left, nothing was open")
)

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
