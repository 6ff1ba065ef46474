// SPDX-License-Identifier: Apache-2.0

package hbone

import (
	"crypto/tls"
	"errors"
	"io"
	"sync"
	"sync/atomic"
	"syscall"
	"time"
)

// Stream is one application connection inside a tunnel connection. One goroutine may read (Read or WriteTo) while
// another writes (Write, ReadFrom, CloseWrite); Reset may come from anywhere at any time.
type Stream struct {
	conn     *conn
	id       uint32
	answered atomic.Bool // 200 went out or came in

	writeMu sync.Mutex     // one writer at a time, so that bytes keep their order
	broken  bool           // ReadFrom took bytes that could not be sent; under writeMu
	sent    *atomic.Uint64 // what ReadFrom counts in, nil for nothing; under writeMu

	// Under conn.mu.
	sendWindow     int64
	waiting        bool // among conn.waiters, between these
	before, behind *Stream
	wake           sync.Cond
	localEnd       bool // END_STREAM sent
	peerEnd        bool // END_STREAM received
	enough         bool // and the server wants no more of this side: see hadEnough
	closed         bool // out of conn.streams
	writeErr       error
	source         deadliner     // what ReadFrom reads, to be interrupted
	status         int           // client
	header         Header        // client: of the answer; server: of the request
	ready          chan struct{} // client: closed with the answer or the end

	in receiver
}

// deadliner is the part of net.Conn that interrupts a read or write under way.
type deadliner interface {
	SetReadDeadline(time.Time) error
	SetWriteDeadline(time.Time) error
}

var (
	_ io.ReadWriter = (*Stream)(nil)
	_ io.ReaderFrom = (*Stream)(nil)
	_ io.WriterTo   = (*Stream)(nil)
)

// newStream registers a stream; mu is held.
func (c *conn) newStream(id uint32) *Stream {
	s := &Stream{conn: c, id: id, sendWindow: c.peerInitial}
	s.wake.L = &c.mu
	s.in.wake.L = &s.in.mu
	s.in.window = window{size: streamWindow, avail: streamWindow}
	if c.err != nil {
		s.closed, s.writeErr, s.in.err = true, c.err, c.err
		return s
	}
	c.streams[id] = s
	return s
}

// ConnectionState describes the TLS handshake of the connection the stream is on: who its peer proved to be.
func (s *Stream) ConnectionState() tls.ConnectionState { return s.conn.records.ConnectionState() }

// ID is the number of the stream on its connection.
func (s *Stream) ID() uint32 { return s.id }

// Header is the header of the server's answer on a client's stream, of the request on a server's.
func (s *Stream) Header() Header {
	s.conn.mu.Lock()
	defer s.conn.mu.Unlock()
	return s.header
}

// Count has ReadFrom add to sent, and WriteTo to received, as bytes go, so that a stream that lives for days can be
// watched. After they returned the counters have grown by what they returned. Call it before them.
func (s *Stream) Count(sent, received *atomic.Uint64) {
	s.writeMu.Lock()
	s.sent = sent
	s.writeMu.Unlock()
	s.in.mu.Lock()
	s.in.received = received
	s.in.mu.Unlock()
}

// CloseWrite ends this side's bytes with END_STREAM; the peer may go on. Calling it twice is harmless.
func (s *Stream) CloseWrite() error {
	s.writeMu.Lock()
	defer s.writeMu.Unlock()
	c := s.conn
	c.mu.Lock()
	if s.localEnd || s.writeErr != nil {
		err := s.writeErr
		if s.enough && !s.broken {
			err = nil // nothing was withheld
		}
		c.mu.Unlock()
		return err
	}
	if s.broken {
		c.mu.Unlock()
		return errBroken
	}
	s.localEnd = true
	*c.pend() = appendFrame(*c.pend(), frameData, flagEndStream, s.id, nil)
	ended := c.closeIfEnded(s)
	c.mu.Unlock()
	c.flush()
	if ended {
		c.ended()
	}
	return nil
}

// Reset ends both directions at once and tells the peer why. What has not been read is dropped. After the end of
// both directions it only drops what has not been read.
func (s *Stream) Reset(code Code) {
	s.conn.reset(s, &ResetError{Code: code, Local: true})
	s.conn.kick()
}

// closeIfEnded takes a stream off the connection when both sides have ended; mu is held.
func (c *conn) closeIfEnded(s *Stream) bool {
	if s.closed || !s.localEnd || !s.peerEnd {
		return false
	}
	s.closed = true
	delete(c.streams, s.id)
	return true
}

// ended follows every stream's end: the pool may use its place, a draining connection may close.
func (c *conn) ended() {
	c.notify()
	c.closeIfDrained()
}

// reset ends a stream from this side. RST_STREAM is left pending, for the reader calls this too.
func (c *conn) reset(s *Stream, why *ResetError) {
	left := s.in.unsent()
	c.mu.Lock()
	if !s.closed && c.err == nil {
		c.stray += left
		c.strayHeads++
		*c.reply() = appendUint32Frame(*c.pend(), frameReset, s.id, uint32(why.Code))
	}
	source, gone := c.detach(s, why) // in the same breath: no DATA may follow RST_STREAM
	c.mu.Unlock()
	c.interrupt(s, why, source, true)
	if gone {
		c.ended()
	}
}

// abort ends a stream without telling the peer. A side that had ended in order stays so.
func (c *conn) abort(s *Stream, why error) {
	c.mu.Lock()
	source, gone := c.detach(s, why)
	c.mu.Unlock()
	c.interrupt(s, why, source, false)
	if gone {
		c.ended()
	}
}

// hadEnough takes RST_STREAM with NO_ERROR behind a server's END_STREAM (RFC 9113 section 8.1): its answer is whole, and
// nothing more is heard. What it sent is still read to its end. A writer fails with its next byte, as one does whose
// TCP peer has closed; one that has nothing more to say ends in order.
func (c *conn) hadEnough(s *Stream) {
	c.mu.Lock()
	s.enough = true
	_, gone := c.detach(s, &ResetError{Code: CodeNo})
	c.mu.Unlock()
	if gone {
		c.ended()
	}
}

// detach takes a stream off its connection and fails its writers; mu is held.
func (c *conn) detach(s *Stream, why error) (source deadliner, gone bool) {
	gone = !s.closed
	s.closed = true
	delete(c.streams, s.id)
	if s.writeErr == nil {
		s.writeErr = why
	}
	if s.ready != nil && s.status == 0 {
		s.status = -1
		close(s.ready)
	}
	c.waiters.remove(s)
	s.wake.Broadcast()
	return s.source, gone
}

// interrupt wakes who reads the stream or waits for an application on its behalf. The reader learns why first:
// whoever wakes by the deadline may reset the stream, and that must not pass for the cause.
func (c *conn) interrupt(s *Stream, why error, source deadliner, all bool) {
	s.in.abort(why, all)
	if source != nil {
		_ = source.SetReadDeadline(longAgo)
	}
}

var longAgo = time.Unix(1, 0)

// descriptor returns the raw socket of an application connection, nil if it has none or is no connection.
func descriptor(v any) syscall.RawConn {
	sc, ok := v.(syscall.Conn)
	if !ok {
		return nil
	}
	if _, ok := v.(deadliner); !ok {
		return nil
	}
	raw, err := sc.SyscallConn()
	if err != nil {
		return nil
	}
	return raw
}

func asDeadliner(v any) deadliner {
	d, _ := v.(deadliner)
	return d
}

// errBroken follows a failed ReadFrom: bytes are missing, so an orderly end would be a lie.
var errBroken = errors.New("close stream: bytes were lost in a failed write")
