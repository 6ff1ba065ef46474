// SPDX-License-Identifier: Apache-2.0

package hbone

import (
	"context"
	"fmt"

	"github.com/warren-mesh/warren/ztunnel/record"
)

// Request asks for one stream.
type Request struct {
	Authority string // host:port, IPv6 in brackets
	Header
}

// ClientConn is the client's end of a tunnel connection. Safe for concurrent use.
type ClientConn struct{ conn *conn }

// NewClient starts HTTP/2 on a connection whose TLS handshake is done, and owns it from then on. It does not wait
// for the server. ctx bounds only this call.
func NewClient(ctx context.Context, rc record.Conn, config Config) (*ClientConn, error) {
	return newClient(ctx, rc, config, nil)
}

func newClient(ctx context.Context, rc record.Conn, config Config, changed func()) (*ClientConn, error) {
	if err := ctx.Err(); err != nil {
		_ = rc.Close()
		return nil, fmt.Errorf("start client connection: %w", err)
	}
	c := newConn(rc, config, true)
	c.changed = changed
	c.start()
	go func() { _ = c.run() }()
	return &ClientConn{c}, nil
}

// Open asks for a stream and returns it once the server answered 200. It waits for the server's SETTINGS where
// they decide. ErrFull and ErrGoingAway ask for another connection, a ResetError with REFUSED_STREAM too; other
// answers than 200 are a *StatusError. When ctx ends first the request is withdrawn.
func (cc *ClientConn) Open(ctx context.Context, req Request) (*Stream, error) {
	c := cc.conn
	s, err := c.request(req)
	if err == ErrFull {
		select {
		case <-c.settled:
		case <-c.done:
		case <-ctx.Done():
			return nil, fmt.Errorf("open stream: %w", context.Cause(ctx))
		}
		s, err = c.request(req)
	}
	if err != nil {
		return nil, err
	}
	c.flush()
	select {
	case <-s.ready:
		if err := s.verdict(); err != nil {
			return nil, err
		}
		return s, nil
	case <-ctx.Done():
		s.Reset(CodeCancel)
		return nil, fmt.Errorf("open stream: %w", context.Cause(ctx))
	}
}

// request registers a stream and appends its HEADERS.
func (c *conn) request(req Request) (*Stream, error) {
	if n := req.size() + len(req.Authority); n > 16<<10 {
		return nil, fmt.Errorf("open stream: header of %d bytes is too large", n)
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	switch {
	case c.err != nil:
		return nil, c.err
	case c.away || c.nextID > maxID:
		return nil, ErrGoingAway
	case len(c.streams) >= int(c.peerMax):
		return nil, ErrFull
	}
	s := c.newStream(c.nextID)
	c.nextID += 2
	s.ready = make(chan struct{})
	block := c.encode([]Field{{":method", "CONNECT"}, {":authority", req.Authority}}, &req.Header)
	*c.pend() = appendHeaders(*c.pend(), s.id, block, false)
	return s, nil
}

// answer takes the server's final status, in the reader.
func (s *Stream) answer(status int, h Header) {
	s.answered.Store(true)
	s.conn.mu.Lock()
	defer s.conn.mu.Unlock()
	if s.status == 0 {
		s.status, s.header = status, h
		close(s.ready)
	}
}

// verdict is the error of a stream that is ready but not open.
func (s *Stream) verdict() error {
	c := s.conn
	c.mu.Lock()
	status, err := s.status, s.writeErr
	s.ready = nil
	c.mu.Unlock()
	if status == 200 {
		return nil
	}
	if status < 0 {
		return err
	}
	s.Reset(CodeCancel)
	return &StatusError{Status: status}
}

// GoAway takes no new streams; the connection closes when the live ones have ended.
func (cc *ClientConn) GoAway() { cc.conn.goAway() }

// Close ends the connection and resets what lives on it.
func (cc *ClientConn) Close() error {
	_ = cc.conn.fail(errClosed)
	return nil
}

// end ends the connection and resets what lives on it; its streams' errors carry why.
func (cc *ClientConn) end(why error) { _ = cc.conn.fail(why) }

// Done is closed when the connection has ended.
func (cc *ClientConn) Done() <-chan struct{} { return cc.conn.done }

// Err is why the connection ended, nil while it lives.
func (cc *ClientConn) Err() error { return cc.conn.ending() }

// Streams is the number of streams open now.
func (cc *ClientConn) Streams() int { return cc.conn.count() }
