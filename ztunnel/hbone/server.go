// SPDX-License-Identifier: Apache-2.0

package hbone

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"strconv"

	"github.com/warren-mesh/warren/ztunnel/record"
)

// ServerConn is the server's end of a tunnel connection. Safe for concurrent use.
type ServerConn struct{ conn *conn }

// NewServer prepares to serve a connection whose TLS handshake is done, and owns it. Each request's handler runs
// in a goroutine of its own; a request it neither accepts nor refuses is refused with 503 when it returns.
func NewServer(rc record.Conn, config Config, handler func(*ServerStream)) *ServerConn {
	c := newConn(rc, config, false)
	c.handler = handler
	return &ServerConn{c}
}

// Serve is NewServer and Serve in one.
func Serve(ctx context.Context, rc record.Conn, config Config, handler func(*ServerStream)) error {
	return NewServer(rc, config, handler).Serve(ctx)
}

// Serve reads the connection until it ends: nil if in order (drained, or closed by the peer), otherwise an error
// that is ErrConnectionLost and, where the peer was at fault, a *ConnError. When ctx ends, the connection is closed.
func (sc *ServerConn) Serve(ctx context.Context) error {
	c := sc.conn
	stop := context.AfterFunc(ctx, func() { _ = c.fail(context.Cause(ctx)) })
	defer stop()
	c.start()
	return end(c.run())
}

// GoAway takes no new streams; the connection closes when the live ones have ended.
func (sc *ServerConn) GoAway() { sc.conn.goAway() }

// Close ends the connection and resets what lives on it.
func (sc *ServerConn) Close() error {
	_ = sc.conn.fail(errClosed)
	return nil
}

// End ends the connection and resets what lives on it; its streams' errors carry why.
func (sc *ServerConn) End(why error) { _ = sc.conn.fail(why) }

// ConnectionState is what the handshake proved.
func (sc *ServerConn) ConnectionState() tls.ConnectionState { return sc.conn.records.ConnectionState() }

// Done is closed when the connection has ended.
func (sc *ServerConn) Done() <-chan struct{} { return sc.conn.done }

// Streams is the number of streams open now.
func (sc *ServerConn) Streams() int { return sc.conn.count() }

var errClosed = errors.New("closed by this side")

// ServerStream is a request that waits for its answer.
type ServerStream struct {
	stream  *Stream
	request Request
}

// Request is what the client asked for. The authority is as it came: not empty, otherwise unchecked.
func (ss *ServerStream) Request() Request { return ss.request }

// Withdrawn reports whether the request was withdrawn, or its connection lost.
func (ss *ServerStream) Withdrawn() bool {
	c := ss.stream.conn
	c.mu.Lock()
	defer c.mu.Unlock()
	return ss.stream.writeErr != nil
}

// Accept answers 200 and returns the stream. It fails if the request was withdrawn or answered meanwhile.
func (ss *ServerStream) Accept(h Header) (*Stream, error) {
	if err := ss.answer(200, h, false); err != nil {
		return nil, fmt.Errorf("accept stream: %w", err)
	}
	return ss.stream, nil
}

// Refuse answers with another status and ends the stream.
func (ss *ServerStream) Refuse(status int) error {
	if err := ss.answer(status, Header{}, true); err != nil {
		return fmt.Errorf("refuse stream: %w", err)
	}
	return nil
}

var errAnswered = errors.New("already answered")

func (ss *ServerStream) answer(status int, h Header, last bool) error {
	if err := ss.append(status, h, last); err != nil {
		return err
	}
	ss.stream.conn.flush()
	return nil
}

// append leaves an answer pending.
func (ss *ServerStream) append(status int, h Header, last bool) error {
	s := ss.stream
	c := s.conn
	c.mu.Lock()
	if err := s.writable(); err != nil || s.answered.Load() {
		c.mu.Unlock()
		if err == nil {
			err = errAnswered
		}
		return err
	}
	s.answered.Store(true)
	block := c.encode([]Field{{":status", strconv.Itoa(status)}}, &h)
	*c.reply() = appendHeaders(*c.pend(), s.id, block, last)
	ended := false
	if last {
		s.localEnd = true
		ended = c.closeIfEnded(s)
	}
	c.mu.Unlock()
	switch {
	case ended:
		c.ended()
	case last:
		// The answer is complete; the client need not send the rest (RFC 9113 section 8.1).
		c.reset(s, &ResetError{Code: CodeNo, Local: true})
	}
	return nil
}

// serve starts the handler of a request, in the reader.
func (r *reader) serve(b *headerBlock) {
	c := r.conn
	ss := &ServerStream{request: Request{Authority: b.pseudo[":authority"], Header: b.header}}
	connect := b.pseudo[":method"] == "CONNECT" && ss.request.Authority != "" && b.only(":method", ":authority")
	c.mu.Lock()
	s := c.newStream(r.blockID)
	ss.stream, s.header = s, b.header
	if connect {
		c.handlers++
	}
	c.mu.Unlock()
	if r.blockEnd {
		s.arriveEnd()
	}
	if !connect {
		_ = ss.append(400, Header{}, true)
		return
	}
	go func() {
		c.handler(ss)
		if !s.answered.Load() {
			_ = ss.Refuse(503)
		}
		c.mu.Lock()
		c.handlers--
		c.mu.Unlock()
		c.closeIfDrained()
	}()
}
