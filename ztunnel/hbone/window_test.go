// SPDX-License-Identifier: Apache-2.0

package hbone

import (
	"errors"
	"io"
	"testing"
	"time"

	"github.com/warren-mesh/warren/ztunnel/record"
)

// TestWindowNeverExceedsItself: whatever is consumed, the peer is never granted more than the window's size, and
// all of it comes back.
func TestWindowNeverExceedsItself(t *testing.T) {
	w := window{size: streamWindow, avail: streamWindow}
	inFlight := int64(streamWindow) // what the peer thinks it may send
	for i := range 10000 {
		n := min(1+i*7919%40000, int(inFlight))
		inFlight -= int64(n)
		if !w.receive(n) {
			t.Fatal("peer refused within its window")
		}
		inFlight += int64(w.consume(n, maxStreamWindow, time.Millisecond))
		if inFlight != w.avail || w.avail+w.taken != w.size {
			t.Fatalf("step %d: peer has %d, we say %d available and %d taken of %d", i, inFlight, w.avail, w.taken, w.size)
		}
	}
	if w.size != maxStreamWindow {
		t.Errorf("drained without pause, the window grew to %d only", w.size)
	}
	if w.receive(int(w.avail) + 1) {
		t.Error("a byte beyond the window was taken")
	}
}

func TestWindowOfSlowReaderStays(t *testing.T) {
	w := window{size: streamWindow, avail: streamWindow}
	for range 100 {
		w.receive(streamWindow / 4)
		w.since = monotonic() - int64(time.Second) // a quarter a second
		w.consume(streamWindow/4, maxStreamWindow, time.Millisecond)
	}
	if w.size != streamWindow {
		t.Errorf("a slow reader's window grew to %d", w.size)
	}
}

func TestWindowGrowsWithDrain(t *testing.T) {
	tun := newTunnel(t, Config{}, accepting(echo))
	s := tun.open(t)
	go func() {
		pattern(t, s, 1, scaled(32<<20))
		_ = s.CloseWrite()
	}()
	_, _ = sumOf(t, s)
	s.in.mu.Lock()
	defer s.in.mu.Unlock()
	if s.in.window.size <= streamWindow || s.in.window.size > maxStreamWindow {
		t.Errorf("window after it all: %d", s.in.window.size)
	}
}

// TestBudget: a stream whose unread bytes would exceed the budget is reset, and says why; the memory comes back.
func TestBudget(t *testing.T) {
	budget := NewBudget(128 << 10)
	hold := make(chan *Stream, 1)
	tun := newTunnel(t, Config{Budget: budget}, accepting(func(s *Stream) { hold <- s }))
	s := tun.open(t)
	var reset *ResetError
	if _, err := s.Write(make([]byte, 1<<20)); !errors.As(err, &reset) || reset.Code != CodeEnhanceYourCalm || reset.Local {
		t.Fatalf("write: %v", err)
	}
	far := <-hold
	if _, err := io.Copy(io.Discard, readerOnly{far}); !errors.As(err, &reset) || !reset.Local {
		t.Fatalf("far read: %v", err)
	}
	eventually(t, "memory given back", func() bool { return budget.Used() == 0 })
	if _, err := tun.open(t).Write([]byte("others go on")); err != nil {
		t.Fatal(err)
	}
}

func TestFloodRefills(t *testing.T) {
	f := flood{last: monotonic()}
	for range floodBurst - 1 {
		if err := f.draw("x"); err != nil {
			t.Fatal(err)
		}
	}
	f.last -= int64(time.Second) // a second passes
	for range floodRefill {
		if err := f.draw("x"); err != nil {
			t.Fatal(err)
		}
	}
	f.last = monotonic()
	for range 10 {
		if f.draw("x") != nil {
			return
		}
	}
	t.Error("the bucket has no bottom")
}

// TestResetReturnsWindow: bytes that were read before their stream was reset, and not sent, cost the connection nothing.
func TestResetReturnsWindow(t *testing.T) {
	for _, n := range []int{1, smallFrame, smallFrame + 1, 3 * record.MaxPayload} {
		tun := newTunnel(t, Config{}, accepting(func(s *Stream) { _, _ = s.Read(make([]byte, 1)) }))
		s := tun.open(t)
		c := s.conn
		window := func() int64 {
			c.mu.Lock()
			defer c.mu.Unlock()
			return c.sendWindow
		}
		eventually(t, "the server's window", func() bool { return window() > peerWindow })
		before := window()
		c.mu.Lock()
		s.take(n)
		c.mu.Unlock()
		s.Reset(CodeCancel)
		p := &pump{stream: s, slots: record.GetSlots(slotsFor(n)), n: n, want: 1}
		if err := p.send(); err == nil {
			t.Errorf("%d bytes were sent on a stream that was reset", n)
		}
		if now := window(); now != before {
			t.Errorf("%d bytes: the connection's window went from %d to %d", n, before, now)
		}
	}
}
