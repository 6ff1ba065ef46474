// SPDX-License-Identifier: Apache-2.0

package hbone

import (
	"context"
	"crypto/tls"
	"errors"
	"io"
	"net"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/net/http2"

	"github.com/warren-mesh/warren/ztunnel/record"
)

// TestConnectionCut: however the connection ends, a live stream sees ErrConnectionLost and never io.EOF.
func TestConnectionCut(t *testing.T) {
	for _, test := range []struct {
		name string
		cut  func(server *tls.Conn, tun *tunnel)
	}{
		{"reset", func(server *tls.Conn, _ *tunnel) {
			tcp := below(server)
			_ = tcp.SetLinger(0)
			_ = tcp.Close()
		}},
		{"fin", func(server *tls.Conn, _ *tunnel) { _ = below(server).CloseWrite() }},
		{"close_notify", func(_ *tls.Conn, tun *tunnel) { _ = tun.server.conn.records.Close() }},
		{"closed by the server", func(_ *tls.Conn, tun *tunnel) { _ = tun.server.Close() }},
		{"closed by the client", func(_ *tls.Conn, tun *tunnel) { _ = tun.client.Close() }},
		{"garbage", func(server *tls.Conn, _ *tunnel) { _, _ = below(server).Write(make([]byte, 100)) }},
	} {
		t.Run(test.name, func(t *testing.T) {
			c, s := tlsPair(t)
			served := make(chan error, 1)
			tun := joinTunnel(t, c, s, Config{}, accepting(func(s *Stream) {
				_, _ = s.Write([]byte("hello"))
				_, err := io.Copy(io.Discard, readerOnly{s})
				served <- err
			}))
			stream := tun.open(t)
			if _, err := io.ReadFull(stream, make([]byte, 5)); err != nil {
				t.Fatal(err)
			}
			app, near := tcpPair(t)
			sent := make(chan error, 1)
			go func() {
				_, err := stream.ReadFrom(near) // waits for an application that says nothing
				sent <- err
			}()
			test.cut(s, tun)
			if _, err := stream.Read(make([]byte, 1)); !errors.Is(err, ErrConnectionLost) || errors.Is(err, io.EOF) {
				t.Errorf("client's read: %v", err)
			}
			if err := <-sent; !errors.Is(err, ErrConnectionLost) {
				t.Errorf("client's ReadFrom: %v", err)
			}
			if _, err := stream.Write([]byte("x")); !errors.Is(err, ErrConnectionLost) {
				t.Errorf("client's write: %v", err)
			}
			_ = tun.client.Close()
			if err := <-served; !errors.Is(err, ErrConnectionLost) || errors.Is(err, io.EOF) {
				t.Errorf("server's read: %v", err)
			}
			if _, err := tun.client.Open(deadline(t), Request{Authority: "a:1"}); !errors.Is(err, ErrConnectionLost) {
				t.Errorf("open: %v", err)
			}
			_ = app.Close()
		})
	}
}

// below is the TCP connection under a TLS connection of tlsPair.
func below(c *tls.Conn) *net.TCPConn { return record.Underlying(c).(*net.TCPConn) }

// TestCutBehindEnd: what came before END_STREAM stays readable after the connection is gone, and its end an end.
func TestCutBehindEnd(t *testing.T) {
	tun := newTunnel(t, Config{}, accepting(func(s *Stream) {
		_, _ = s.Write([]byte("all of it"))
		_ = s.CloseWrite()
	}))
	s := tun.open(t)
	eventually(t, "the end", s.remoteEnded)
	_ = tun.server.Close()
	<-tun.client.Done()
	if b, err := io.ReadAll(s); err != nil || string(b) != "all of it" {
		t.Fatalf("%q %v", b, err)
	}
	if _, err := s.Write([]byte("x")); !errors.Is(err, ErrConnectionLost) {
		t.Fatalf("write: %v", err)
	}
}

func TestSilentPeerIsLost(t *testing.T) {
	c, s := tlsPair(t)
	config := Config{PingInterval: 20 * time.Millisecond, PingTimeout: 40 * time.Millisecond}
	client, err := NewClient(context.Background(), record.OverTLS(c), config)
	if err != nil {
		t.Fatal(err)
	}
	began := time.Now()
	select {
	case <-client.Done():
	case <-time.After(10 * time.Second):
		t.Fatal("a silent peer is still waited for")
	}
	if took := time.Since(began); took < 40*time.Millisecond {
		t.Errorf("lost already after %v", took)
	}
	if !errors.Is(client.Err(), ErrConnectionLost) {
		t.Errorf("ended by %v", client.Err())
	}
	_ = s.Close()
}

func TestPingKeepsConnection(t *testing.T) {
	config := Config{PingInterval: 5 * time.Millisecond, PingTimeout: 5 * time.Second}
	tun := newTunnel(t, config, accepting(echo))
	s := tun.open(t)
	eventually(t, "a round trip measured", func() bool { return tun.client.conn.roundTrip() > 0 })
	for range 20 {
		_, _ = s.Write([]byte("x"))
		if _, err := io.ReadFull(s, make([]byte, 1)); err != nil {
			t.Fatal(err)
		}
	}
}

func TestDrain(t *testing.T) {
	for _, side := range []string{"server", "client"} {
		t.Run(side, func(t *testing.T) {
			tun := newTunnel(t, Config{}, accepting(echo))
			s := tun.open(t)
			if side == "server" {
				tun.server.GoAway()
			} else {
				tun.client.GoAway()
			}
			eventually(t, "no room", func() bool { return !tun.client.conn.hasRoom() })
			if _, err := tun.client.Open(deadline(t), Request{Authority: "a:1"}); err != ErrGoingAway {
				t.Fatalf("open: %v", err)
			}
			_, _ = s.Write([]byte("still here"))
			_ = s.CloseWrite()
			if b, err := io.ReadAll(s); err != nil || string(b) != "still here" {
				t.Fatalf("%q %v", b, err)
			}
			<-tun.client.Done()
			if err := <-tun.served; err != nil {
				t.Fatalf("serve: %v", err)
			}
		})
	}
}

// TestDrainBeforeServe: SETTINGS still come first, and streams that were on their way are served.
func TestDrainBeforeServe(t *testing.T) {
	c, s := tlsPair(t)
	server := NewServer(record.OverTLS(s), Config{}, accepting(echo))
	server.GoAway()
	served := make(chan error, 1)
	go func() { served <- server.Serve(context.Background()) }()
	client, err := NewClient(context.Background(), record.OverTLS(c), Config{})
	if err != nil {
		t.Fatal(err)
	}
	if err := <-served; err != nil {
		t.Fatalf("serve: %v", err)
	}
	<-client.Done()
	if err := client.Err(); !errors.Is(err, errDrained) && !errors.Is(err, errLeft) {
		t.Errorf("client ended by %v", err)
	}
}

// TestDrainLosesNothing: a peer that is slow to read, and says something meanwhile, still gets all of the last
// stream when the connection went away behind it.
func TestDrainLosesNothing(t *testing.T) {
	const size = 200 << 10
	c, s := tlsPair(t)
	finish := make(chan struct{})
	server := NewServer(record.OverTLS(s), Config{}, accepting(func(s *Stream) {
		<-finish
		_, _ = s.Write(make([]byte, size))
		_ = s.CloseWrite()
	}))
	served := make(chan error, 1)
	go func() { served <- server.Serve(context.Background()) }()
	p := newPeer(c)
	_, _ = io.WriteString(c, preface)
	_ = p.WriteSettings(http2.Setting{ID: http2.SettingInitialWindowSize, Val: size})
	_ = p.WriteWindowUpdate(0, size)
	p.connect(1)
	_ = p.WriteData(1, true, nil)
	eventually(t, "the request", func() bool { return server.Streams() == 1 })
	server.GoAway()
	got, goAways, ended := 0, 0, false
	read := func() {
		f, err := p.ReadFrame()
		if err != nil {
			t.Fatalf("after %d bytes: %v", got, err)
		}
		switch f := f.(type) {
		case *http2.GoAwayFrame:
			goAways++
		case *http2.PingFrame:
			if !f.IsAck() {
				_ = p.WritePing(true, f.Data)
			}
		case *http2.DataFrame:
			got += len(f.Data())
			ended = f.StreamEnded()
		}
	}
	for goAways < 2 {
		read()
	}
	close(finish)
	eventually(t, "the server is done", func() bool {
		server.conn.mu.Lock()
		defer server.conn.mu.Unlock()
		return server.conn.mute || server.conn.err != nil
	})
	for range 5 {
		if err := p.WriteWindowUpdate(0, 1000); err != nil {
			t.Fatal(err)
		}
		time.Sleep(5 * time.Millisecond) // gives a reset the time to arrive
	}
	for !ended {
		read()
	}
	if got != size {
		t.Errorf("%d of %d bytes", got, size)
	}
	_ = c.Close()
	if err := <-served; err != nil {
		t.Errorf("serve: %v", err)
	}
}

// TestWithdrawn: a request given up before its answer frees its place at the server.
func TestWithdrawn(t *testing.T) {
	asked := make(chan *ServerStream)
	answered := make(chan error)
	tun := newTunnel(t, Config{}, func(ss *ServerStream) {
		asked <- ss
		eventually(t, "withdrawal", ss.Withdrawn)
		_, err := ss.Accept(Header{})
		answered <- err
	})
	ctx, cancel := context.WithCancel(context.Background())
	opened := make(chan error)
	go func() {
		_, err := tun.client.Open(ctx, Request{Authority: "a:1"})
		opened <- err
	}()
	<-asked
	cancel()
	if err := <-opened; !errors.Is(err, context.Canceled) {
		t.Errorf("open: %v", err)
	}
	if err := <-answered; err == nil {
		t.Error("a withdrawn request was accepted")
	}
	eventually(t, "streams gone", func() bool { return tun.client.Streams() == 0 && tun.server.Streams() == 0 })
}

// TestWithoutBuffered: the layer works on a connection that record.Buffered did not wrap.
func TestWithoutBuffered(t *testing.T) {
	a, b := tcpPair(t)
	c, s := tls.Client(a, tlsConfig(true)), tls.Server(b, tlsConfig(false))
	failed := make(chan error, 1)
	go func() { failed <- s.Handshake() }()
	if err := errors.Join(c.Handshake(), <-failed); err != nil {
		t.Fatal(err)
	}
	tun := joinTunnel(t, c, s, Config{}, accepting(echo))
	stream := tun.open(t)
	go func() {
		pattern(t, stream, 3, 4<<20)
		_ = stream.CloseWrite()
	}()
	if n, _ := sumOf(t, stream); n != 4<<20 {
		t.Fatalf("%d bytes", n)
	}
}

// resetting is an application's connection whose relay resets the stream as soon as it is interrupted.
type resetting struct {
	stream      *Stream
	interrupted chan struct{}
	again       atomic.Bool
}

func (r *resetting) Read([]byte) (int, error) {
	<-r.interrupted
	return 0, errors.New("deadline")
}

func (r *resetting) SetReadDeadline(time.Time) error {
	if !r.again.Swap(true) { // resetting interrupts as well
		r.stream.Reset(CodeConnect)
		close(r.interrupted)
	}
	return nil
}

func (r *resetting) SetWriteDeadline(time.Time) error { return nil }

// TestLossIsToldToBothDirections: the direction that wakes second is told of the loss, not of the reset that the
// first one answered it with.
func TestLossIsToldToBothDirections(t *testing.T) {
	tunnel := newTunnel(t, Config{}, accepting(func(s *Stream) { _, _ = io.Copy(io.Discard, s) }))
	s := tunnel.open(t)
	written := make(chan error, 1)
	go func() {
		_, err := s.ReadFrom(&resetting{stream: s, interrupted: make(chan struct{})})
		written <- err
	}()
	eventually(t, "the copy to begin", func() bool {
		s.conn.mu.Lock()
		defer s.conn.mu.Unlock()
		return s.source != nil
	})
	_ = tunnel.server.Close()
	if _, err := s.Read(make([]byte, 1)); !errors.Is(err, ErrConnectionLost) {
		t.Errorf("read: got %v, want %v", err, ErrConnectionLost)
	}
	if err := <-written; !errors.Is(err, ErrConnectionLost) {
		t.Errorf("write: got %v, want %v", err, ErrConnectionLost)
	}
}

// TestExpiredCertificate: whichever side's certificate ends, no stream begins afterwards, and live ones go on.
func TestExpiredCertificate(t *testing.T) {
	for _, side := range []string{"client", "server"} {
		t.Run(side, func(t *testing.T) {
			near, far := tlsConfig(true), tlsConfig(false)
			of := map[string]*tls.Config{"client": near, "server": far}[side]
			of.Certificates = []tls.Certificate{issue(time.Now().Add(2 * time.Second))} // X.509 counts in seconds
			c, s := tlsPairOf(t, near, far)
			tunnel := joinTunnel(t, c, s, Config{}, accepting(echo))
			live := tunnel.open(t)
			var err error
			eventually(t, "new streams to be refused", func() bool {
				var more *Stream
				if more, err = tunnel.client.Open(deadline(t), Request{Authority: "192.0.2.1:80"}); err == nil {
					more.Reset(CodeCancel)
				}
				return err != nil
			})
			if !errors.Is(err, ErrGoingAway) {
				t.Errorf("open: %v, want %v", err, ErrGoingAway)
			}
			_, _ = live.Write([]byte("still"))
			_ = live.CloseWrite()
			if got, err := io.ReadAll(live); err != nil || string(got) != "still" {
				t.Errorf("live stream: got %q, %v", got, err)
			}
		})
	}
}
