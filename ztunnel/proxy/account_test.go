// SPDX-License-Identifier: Apache-2.0

package proxy

import (
	"bytes"
	"crypto/rand"
	"errors"
	"io"
	"net"
	"os"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/warren-mesh/warren/ztunnel/hbone"
)

// slow is a direction whose reader takes nothing until it is asked to.
type slow struct {
	reader *net.TCPConn
	moved  atomic.Uint64
	sent   []byte
	done   chan error
}

// newSlow sends more than the sockets hold, on a's account.
func newSlow(t *testing.T, a *account) *slow {
	client, from := tcpPair(t)
	to, server := tcpPair(t)
	for _, c := range []*net.TCPConn{client, from, to, server} {
		_ = c.SetReadBuffer(64 << 10)
		_ = c.SetWriteBuffer(64 << 10)
	}
	s := &slow{reader: server, sent: make([]byte, 4<<20), done: make(chan error, 1)}
	_, _ = rand.Read(s.sent)
	dst, src := sideOf(t, to), sideOf(t, from)
	dst.account = a
	go func() {
		err := splice(dst, src, &s.moved)
		_ = to.CloseWrite()
		s.done <- err
	}()
	go func() {
		_, _ = client.Write(s.sent)
		_ = client.CloseWrite()
	}()
	return s
}

// stuck waits until nothing more goes: until ten looks in a row find the same.
func (s *slow) stuck(t *testing.T) {
	t.Helper()
	before, same := uint64(0), 0
	eventually(t, "the direction to stand", func() bool {
		now := s.moved.Load()
		if same++; now != before {
			before, same = now, 0
		}
		return same == 10
	})
}

// read takes all, which is what was sent.
func (s *slow) read(t *testing.T) {
	t.Helper()
	got, err := io.ReadAll(s.reader)
	if err != nil || !bytes.Equal(got, s.sent) {
		t.Errorf("read %d bytes of %d, or others, and %v", len(got), len(s.sent), err)
	}
	if err := <-s.done; err != nil {
		t.Errorf("splice: %v", err)
	}
}

func newAccount(limit int64) *account { return &account{budget: hbone.NewBudget(limit)} }

func (a *account) settled(t *testing.T) {
	t.Helper()
	if p, u := a.pipes.Load(), a.budget.Used(); p != 0 || u != 0 {
		t.Errorf("when all is read %d pipes and %d bytes are counted", p, u)
	}
}

// TestSlowReadersOfOnePod take no more pipes than their share; the rest is served all the same, and another pod gets one.
func TestSlowReadersOfOnePod(t *testing.T) {
	a, other := newAccount(podBudget), newAccount(podBudget)
	var all []*slow
	for range podPipes + 4 {
		all = append(all, newSlow(t, a))
	}
	eventually(t, "the pod to have its share of pipes", func() bool { return a.pipes.Load() == podPipes })
	for _, s := range all {
		s.stuck(t)
	}
	if p, u := a.pipes.Load(), a.budget.Used(); p != podPipes || u < podPipes*copyMost || u > podPipes*spliceMost+4*copyMost {
		t.Errorf("%d slow readers have %d pipes, and %d bytes are counted", len(all), p, u)
	}
	another := newSlow(t, other)
	eventually(t, "another pod to have a pipe", func() bool { return other.pipes.Load() == 1 })
	for _, s := range append(all, another) {
		s.read(t)
	}
	a.settled(t)
	other.settled(t)
}

// TestASlowReaderThatBreaksOff leaves nothing behind, neither of what waited nor of a pipe.
func TestASlowReaderThatBreaksOff(t *testing.T) {
	a := newAccount(podBudget)
	s := newSlow(t, a)
	eventually(t, "something to wait", func() bool { return a.budget.Used() > 0 })
	_ = s.reader.SetLinger(0)
	_ = s.reader.Close()
	if err := <-s.done; err == nil {
		t.Error("splice ended in order")
	}
	a.settled(t)
}

// TestOfAFullAccountNothingMoreIsHeld: slow readers beyond it wait with what they would read still in the sender's socket,
// and get it in the end.
func TestOfAFullAccountNothingMoreIsHeld(t *testing.T) {
	a := newAccount(2 * copyMost)
	first := newSlow(t, a)
	eventually(t, "the account to be full", a.full)
	first.stuck(t)
	before := a.budget.Used()
	var more []*slow
	for range 20 {
		more = append(more, newSlow(t, a))
	}
	for _, s := range more {
		eventually(t, "the others to be served", func() bool { return s.moved.Load() > 0 })
		s.stuck(t)
	}
	if got := a.budget.Used(); got > before+int64(len(more))*copyMost/4 {
		t.Errorf("%d more slow readers hold %d bytes beyond the %d of a full account", len(more), got-before, before)
	}
	for _, s := range append(more, first) {
		s.read(t)
	}
	a.settled(t)
}

// watched tells of the first time that somebody waits for the socket.
type watched struct {
	syscall.RawConn
	waits chan struct{}
	once  sync.Once
}

func watch(t *testing.T, c *net.TCPConn) *watched {
	t.Helper()
	rc, err := c.SyscallConn()
	if err != nil {
		t.Fatal(err)
	}
	return &watched{RawConn: rc, waits: make(chan struct{})}
}

func (w *watched) Read(f func(uintptr) bool) error  { return w.RawConn.Read(w.told(f)) }
func (w *watched) Write(f func(uintptr) bool) error { return w.RawConn.Write(w.told(f)) }

func (w *watched) told(f func(uintptr) bool) func(uintptr) bool {
	return func(fd uintptr) bool {
		done := f(fd)
		if !done {
			w.once.Do(func() { close(w.waits) })
		}
		return done
	}
}

// TestAnAccountThatBecomesFull while directions wait for their senders: they hold nothing either, and hear of a sender that
// breaks off.
func TestAnAccountThatBecomesFull(t *testing.T) {
	const limit = 64 << 10
	for name, c := range map[string]struct {
		sends func(*net.TCPConn) error
		fails bool
	}{
		"more":        {func(c *net.TCPConn) error { _, err := c.Write(make([]byte, 8<<10)); return err }, false},
		"a reset":     {func(c *net.TCPConn) error { return errors.Join(c.SetLinger(0), c.Close()) }, true},
		"a last word": {func(c *net.TCPConn) error { return c.CloseWrite() }, false},
	} {
		a := newAccount(limit)
		sender, from := tcpPair(t)
		to, reader := tcpPair(t)
		fillUp(t, to)
		src, dst := watch(t, from), watch(t, to)
		ended := make(chan error, 1)
		go func() {
			s := splicer{counter: new(atomic.Uint64), account: a}
			err := s.copy(dst, src)
			s.drop()
			ended <- err
		}()
		<-src.waits
		a.budget.Count(limit)
		if err := c.sends(sender); err != nil {
			t.Fatal(err)
		}
		if name == "more" {
			<-dst.waits
			if got := a.budget.Used(); got != limit {
				t.Errorf("%s: %d bytes are held beyond a full account", name, got-limit)
			}
			_ = sender.CloseWrite()
			go func() { _, _ = io.Copy(io.Discard, reader) }()
		}
		if err := <-ended; (err != nil) != c.fails {
			t.Errorf("%s: it ends with %v", name, err)
		}
		a.budget.Count(-limit)
		a.settled(t)
	}
}

// fillUp writes until no more goes.
func fillUp(t *testing.T, c *net.TCPConn) {
	t.Helper()
	err := c.SetWriteBuffer(16 << 10)
	for err == nil {
		_ = c.SetWriteDeadline(time.Now().Add(100 * time.Millisecond))
		_, err = c.Write(make([]byte, 64<<10))
	}
	if !errors.Is(err, os.ErrDeadlineExceeded) {
		t.Fatal(err)
	}
	_ = c.SetWriteDeadline(time.Time{})
}
