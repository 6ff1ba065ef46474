// SPDX-License-Identifier: Apache-2.0

package hbone

import (
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"net"
	"sync"
	"syscall"
	"testing"
	"time"
)

// relay joins an application's TCP connection with a stream as ztunnel does, and reports how it ended.
func relay(app *net.TCPConn, s *Stream) error {
	inbound := make(chan error, 1)
	go func() {
		_, err := s.WriteTo(app)
		if err == nil {
			err = app.CloseWrite()
		} else {
			s.Reset(CodeCancel)
			_ = app.SetLinger(0)
			_ = app.Close()
		}
		inbound <- err
	}()
	_, err := s.ReadFrom(app)
	if err == nil {
		err = s.CloseWrite()
	} else {
		s.Reset(CodeCancel)
		_ = app.SetLinger(0)
		_ = app.Close()
	}
	return errors.Join(err, <-inbound)
}

// path is a tunnel with a socket at each end: what the client's application holds and what the server's does.
type path struct {
	client, server *net.TCPConn
	ended          chan error // both relays
}

func newPath(tb testing.TB, config Config) *path {
	tb.Helper()
	p := &path{ended: make(chan error, 2)}
	far := make(chan *net.TCPConn, 1)
	tun := newTunnel(tb, config, accepting(func(s *Stream) { p.ended <- relay(<-far, s) }))
	p.open(tb, tun, far)
	return p
}

func (p *path) open(tb testing.TB, tun *tunnel, far chan *net.TCPConn) {
	var near, end *net.TCPConn
	p.client, near = tcpPair(tb)
	p.server, end = tcpPair(tb)
	far <- end
	s := tun.open(tb)
	go func() { p.ended <- relay(near, s) }()
	for _, c := range []*net.TCPConn{p.client, p.server} {
		_ = c.SetDeadline(time.Now().Add(60 * time.Second))
	}
}

func (p *path) inOrder(tb testing.TB) {
	tb.Helper()
	for range 2 {
		if err := <-p.ended; err != nil {
			tb.Errorf("relay: %v", err)
		}
	}
}

func TestRelayBothDirectionsExact(t *testing.T) {
	size := scaled(1 << 30)
	if size < 1<<30 {
		size = 32 << 20
	}
	p := newPath(t, Config{})
	var all sync.WaitGroup
	exchange := func(from, to *net.TCPConn, seed byte) {
		all.Go(func() {
			// Blocks repeat with a counter in them: as sensitive to loss and order as random bytes, and cheap.
			block := make([]byte, 1<<20)
			for i := range block {
				block[i] = seed + byte(i*i>>3)
			}
			for i := range size >> 20 {
				copy(block, fmt.Sprint(i))
				if _, err := from.Write(block); err != nil {
					t.Error(err)
					return
				}
			}
			_ = from.CloseWrite()
		})
		all.Go(func() {
			want, got := sha256.New(), sha256.New()
			block := make([]byte, 1<<20)
			for i := range block {
				block[i] = seed + byte(i*i>>3)
			}
			for i := range size >> 20 {
				copy(block, fmt.Sprint(i))
				want.Write(block)
			}
			n, err := io.Copy(got, readerOnly{to})
			if err != nil || n != int64(size) || [32]byte(want.Sum(nil)) != [32]byte(got.Sum(nil)) {
				t.Errorf("%d of %d bytes, %v, or not the same", n, size, err)
			}
		})
	}
	exchange(p.client, p.server, 1)
	exchange(p.server, p.client, 2)
	all.Wait()
	p.inOrder(t)
}

// TestRelaySmallMessages: window taken for a read that brought less, or nothing, is given back.
func TestRelaySmallMessages(t *testing.T) {
	p := newPath(t, Config{})
	go func() {
		_, _ = io.Copy(writerOnly{p.server}, readerOnly{p.server})
		_ = p.server.CloseWrite()
	}()
	message := make([]byte, 64)
	for i := range 2000 {
		message[0] = byte(i)
		if _, err := p.client.Write(message); err != nil {
			t.Fatal(err)
		}
		if _, err := io.ReadFull(p.client, message); err != nil || message[0] != byte(i) {
			t.Fatalf("message %d: %v", i, err)
		}
	}
	_ = p.client.CloseWrite()
	if _, err := p.client.Read(message); err != io.EOF {
		t.Fatal(err)
	}
	p.inOrder(t)
}

// TestFullSocket: while WriteTo waits for a full application socket, the connection's reader does not, and what
// was sent meanwhile arrives behind it in order.
func TestFullSocket(t *testing.T) {
	stuck := make(chan *Stream, 1)
	app, near := tcpPair(t)
	tun := newTunnel(t, Config{}, func(ss *ServerStream) {
		s, err := ss.Accept(Header{})
		if err != nil {
			return
		}
		if ss.Request().Authority == "stuck:1" {
			stuck <- s
			_, _ = s.WriteTo(near)
			_ = near.CloseWrite()
			return
		}
		echo(s)
	})
	s, err := tun.client.Open(deadline(t), Request{Authority: "stuck:1"})
	if err != nil {
		t.Fatal(err)
	}
	far := <-stuck
	waits := func() bool {
		far.in.mu.Lock()
		defer far.in.mu.Unlock()
		return far.in.draining
	}
	piece := make([]byte, 1000)
	sent := 0
	send := func() {
		for i := range piece {
			piece[i] = byte((sent + i) * 31 >> 4)
		}
		if _, err := s.Write(piece); err != nil {
			t.Fatal(err)
		}
		sent += len(piece)
	}
	other := tun.open(t)
	roundTrip := func() {
		_, _ = other.Write(piece[:1])
		if _, err := io.ReadFull(other, make([]byte, 1)); err != nil {
			t.Fatal(err)
		}
	}
	for !waits() {
		send()
		if sent%100000 == 0 {
			roundTrip()
		}
	}
	for range 20 {
		send()
		roundTrip()
	}
	_ = s.CloseWrite()
	_ = app.SetDeadline(time.Now().Add(20 * time.Second))
	got, err := io.ReadAll(app)
	if err != nil || len(got) != sent {
		t.Fatalf("%d of %d bytes, %v", len(got), sent, err)
	}
	for i, b := range got {
		if b != byte(i*31>>4) {
			t.Fatalf("byte %d is another", i)
		}
	}
}

func TestRelayHalfClose(t *testing.T) {
	for _, order := range []string{"client first", "server first"} {
		t.Run(order, func(t *testing.T) {
			p := newPath(t, Config{})
			first, second := p.client, p.server
			if order == "server first" {
				first, second = second, first
			}
			_, _ = first.Write([]byte("question"))
			_ = first.CloseWrite()
			if b, err := io.ReadAll(second); err != nil || string(b) != "question" {
				t.Fatalf("%q %v", b, err)
			}
			large := make([]byte, 3<<20)
			go func() {
				_, _ = second.Write(large)
				_ = second.CloseWrite()
			}()
			if n, err := io.Copy(io.Discard, readerOnly{first}); err != nil || n != int64(len(large)) {
				t.Fatalf("%d bytes, %v", n, err)
			}
			p.inOrder(t)
		})
	}
}

// TestRelayReset: an application's reset arrives as a reset at the other, also when one direction had ended.
func TestRelayReset(t *testing.T) {
	for _, test := range []struct {
		name string
		half bool
	}{{"both open", false}, {"client had ended", true}} {
		t.Run(test.name, func(t *testing.T) {
			p := newPath(t, Config{})
			_, _ = p.client.Write([]byte("x"))
			if test.half {
				_ = p.client.CloseWrite()
				if _, err := io.ReadAll(p.server); err != nil {
					t.Fatal(err)
				}
			} else if _, err := io.ReadFull(p.server, make([]byte, 1)); err != nil {
				t.Fatal(err)
			}
			_ = p.server.SetLinger(0)
			_ = p.server.Close()
			if _, err := p.client.Read(make([]byte, 1)); !errors.Is(err, syscall.ECONNRESET) {
				t.Fatalf("client's read: %v", err)
			}
			for range 2 {
				if err := <-p.ended; err == nil {
					t.Error("a relay ended in order")
				}
			}
		})
	}
}

// TestResetInterruptsReadFrom: a peer that ended its side and then resets must not leave ReadFrom waiting for
// the application.
func TestResetInterruptsReadFrom(t *testing.T) {
	p := newPath(t, Config{})
	_ = p.client.CloseWrite()
	if _, err := io.ReadAll(p.server); err != nil {
		t.Fatal(err)
	}
	_ = p.client.SetLinger(0)
	_ = p.client.Close() // its relay waits for the tunnel; a write to it finds the reset
	_, _ = p.server.Write(make([]byte, 1<<20))
	for range 2 {
		if err := <-p.ended; err == nil {
			t.Error("a relay ended in order")
		}
	}
	if _, err := p.server.Read(make([]byte, 1)); err == nil {
		t.Error("server's application saw no end")
	}
}

func TestManyStreamsExact(t *testing.T) {
	const streams = 256
	size := scaled(256 << 10)
	tun := newTunnel(t, Config{}, accepting(echo))
	var opened, all sync.WaitGroup
	opened.Add(streams)
	for i := range streams {
		all.Go(func() {
			s := tun.open(t)
			opened.Done()
			opened.Wait() // all at once
			sent := make(chan [32]byte, 1)
			go func() {
				sent <- pattern(t, s, uint64(i), size)
				_ = s.CloseWrite()
			}()
			if n, got := sumOf(t, s); n != int64(size) || got != <-sent {
				t.Errorf("stream %d: %d bytes, or not the same", i, n)
			}
		})
	}
	all.Wait()
	eventually(t, "streams gone", func() bool { return tun.client.Streams() == 0 && tun.server.Streams() == 0 })
}

// TestSlowReader: streams whose reader does nothing hold up no other, and get their bytes in the end.
func TestSlowReader(t *testing.T) {
	const slow, size = 4, 8 << 20
	release := make(chan struct{})
	sums := make(chan [32]byte, slow)
	tun := newTunnel(t, Config{}, func(ss *ServerStream) {
		s, err := ss.Accept(Header{})
		if err != nil {
			return
		}
		if ss.Request().Authority == "slow:1" {
			<-release
			_, sum := sumOf(t, s)
			sums <- sum
			_ = s.CloseWrite()
			return
		}
		echo(s)
	})
	want := map[[32]byte]bool{}
	var mu sync.Mutex
	var writers sync.WaitGroup
	for i := range slow {
		s, err := tun.client.Open(deadline(t), Request{Authority: "slow:1"})
		if err != nil {
			t.Fatal(err)
		}
		writers.Go(func() {
			sum := pattern(t, s, uint64(i), size)
			mu.Lock()
			want[sum] = true
			mu.Unlock()
			_ = s.CloseWrite()
		})
	}
	fast := tun.open(t)
	go func() {
		pattern(t, fast, 77, 16<<20)
		_ = fast.CloseWrite()
	}()
	if n, _ := sumOf(t, fast); n != 16<<20 {
		t.Fatalf("fast stream: %d bytes", n)
	}
	if used := tun.server.conn.config.Budget.Used(); used > slow*(streamWindow+2*largeChunk) {
		t.Errorf("slow readers hold %d bytes", used)
	}
	close(release)
	writers.Wait()
	for range slow {
		if sum := <-sums; !want[sum] {
			t.Error("a slow stream's bytes differ")
		}
	}
	eventually(t, "memory given back", func() bool { return tun.server.conn.config.Budget.Used() == 0 })
}
