// SPDX-License-Identifier: Apache-2.0

package broker

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/warren-mesh/warren/tests/testutil"
)

// fakeBroker answers one connection at a time and keeps what it was told.
type fakeBroker struct {
	t    *testing.T
	lis  *net.UnixListener
	conn *Conn
}

func newFakeBroker(t *testing.T, dir, gen string) *fakeBroker {
	t.Helper()
	l, err := Listen(filepath.Join(dir, SocketName("broker", gen, "")))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	return &fakeBroker{t: t, lis: l}
}

func (f *fakeBroker) accept() {
	f.t.Helper()
	_ = f.lis.SetDeadline(time.Now().Add(5 * time.Second))
	uc, err := f.lis.AcceptUnix()
	if err != nil {
		f.t.Fatal(err)
	}
	f.conn = NewConn(uc)
	f.t.Cleanup(func() { f.conn.Close() })
	if m := f.next(); m != "hello" {
		f.t.Fatalf("first message is %s", m)
	}
	if err := f.conn.Send(TypeHello, Hello{Role: "broker"}); err != nil {
		f.t.Fatal(err)
	}
}

// next receives a message and tells what it is.
func (f *fakeBroker) next() string {
	f.t.Helper()
	_ = f.conn.uc.SetReadDeadline(time.Now().Add(5 * time.Second))
	m, fds, err := f.conn.Recv()
	CloseFDs(fds)
	if err != nil {
		f.t.Fatal(err)
	}
	switch m.Type {
	case TypeHello:
		return "hello"
	case TypeCaptureUpdate:
		var u CaptureUpdate
		if err := m.Into(&u); err != nil {
			f.t.Fatal(err)
		}
		return "update " + u.UID
	case TypeCaptureDelete:
		var d CaptureDelete
		if err := m.Into(&d); err != nil {
			f.t.Fatal(err)
		}
		return "delete " + d.UID
	case TypeCaptureSync:
		return "sync"
	case TypeSettings:
		return "settings"
	case TypeStatsRequest:
		var r Request
		if err := m.Into(&r); err != nil {
			f.t.Fatal(err)
		}
		if err := f.conn.Send(TypeStats, Stats{ID: r.ID, Repairs: 4}); err != nil {
			f.t.Fatal(err)
		}
		return "stats"
	}
	return fmt.Sprint(m.Type)
}

func (f *fakeBroker) expect(want ...string) {
	f.t.Helper()
	var got []string
	for range want {
		got = append(got, f.next())
	}
	if !slices.Equal(got, want) {
		f.t.Fatalf("told %q, want %q", got, want)
	}
}

func runClient(t *testing.T, dir string) *Client {
	t.Helper()
	c := NewClient(dir, slog.New(slog.DiscardHandler))
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- c.Run(ctx) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
	return c
}

func TestClientTellsEverythingAgain(t *testing.T) {
	dir := t.TempDir()
	c := NewClient(dir, slog.New(slog.DiscardHandler))
	c.Update(Capture{UID: "a"})
	c.Update(Capture{UID: "b"})
	c.Configure(Settings{Exceptions: []netip.Prefix{netip.MustParsePrefix("10.0.0.0/8")}})
	if _, err := c.Stats(context.Background()); !errors.Is(err, ErrNotConnected) {
		t.Errorf("figures without a broker: %v", err)
	}
	f := newFakeBroker(t, dir, "1")
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- c.Run(ctx) }()
	defer func() { cancel(); <-done }()
	f.accept()
	f.expect("settings", "update a", "update b") // not complete yet: no sync
	c.Sync()
	f.expect("settings", "sync")
	c.Delete("a")
	f.expect("delete a")
	c.Update(Capture{UID: "c"})
	f.expect("update c")

	f.conn.Close()
	c.Delete("b") // told by not being in the next list
	f.accept()
	f.expect("settings", "update c", "sync")
	if !c.Connected() {
		t.Error("not connected")
	}
}

// Before the list is complete no Sync says what is gone: each broker has to hear of it.
func TestClientTellsOfDeletionsAgain(t *testing.T) {
	dir := t.TempDir()
	b := newFakeBroker(t, dir, "1")
	c := runClient(t, dir)
	b.accept()
	c.Update(Capture{UID: "a"})
	b.expect("update a")
	c.Update(Capture{UID: "b"})
	b.expect("update b")
	c.Delete("b")
	b.expect("delete b")
	b.conn.Close() // it may have died before it did so
	b.accept()
	b.expect("update a", "delete b")
	c.Sync()
	b.expect("sync")
	b.conn.Close()
	b.accept()
	b.expect("update a", "sync")
}

func TestClientPrefersTheNewestAndTakesWhatAnswers(t *testing.T) {
	dir := t.TempDir()
	old := newFakeBroker(t, dir, "1")
	dead := newFakeBroker(t, dir, "2")
	dead.lis.Close() // its file stays
	runClient(t, dir).Update(Capture{UID: "a"})
	old.accept()
	old.expect("update a")
}

func TestClientStatesNewestCounts(t *testing.T) {
	dir := t.TempDir()
	f := newFakeBroker(t, dir, "1")
	c := runClient(t, dir)
	f.accept()
	for _, s := range []State{{UID: "a", Reason: "no"}, {UID: "b"}, {UID: "a", Captured: true}} {
		if err := f.conn.Send(TypeCaptureState, s); err != nil {
			t.Fatal(err)
		}
	}
	testutil.Eventually(t, 5*time.Second, "not connected", c.Connected)
	figures := make(chan error, 1)
	go func() {
		s, err := c.Stats(t.Context())
		if err == nil && s.Repairs != 4 {
			err = fmt.Errorf("figures %+v", s)
		}
		figures <- err
	}()
	f.expect("stats")
	if err := <-figures; err != nil {
		t.Fatal(err)
	}
	last := map[string]State{}
	for len(last) < 2 || !last["a"].Captured {
		select {
		case s := <-c.States():
			last[s.UID] = s
		case <-time.After(5 * time.Second):
			t.Fatalf("states so far: %+v", last)
		}
	}
}

func TestClientLeavesABrokerOfAnotherVersion(t *testing.T) {
	dir := t.TempDir()
	f := newFakeBroker(t, dir, "1")
	c := runClient(t, dir)
	uc, err := f.lis.AcceptUnix()
	if err != nil {
		t.Fatal(err)
	}
	defer uc.Close()
	if _, err := uc.Write([]byte{Version + 1, byte(TypeHello), 0, 0, '{', '}'}); err != nil {
		t.Fatal(err)
	}
	if _, err := uc.Read(make([]byte, 100)); err != nil {
		t.Fatal(err) // its hello
	}
	_ = uc.SetReadDeadline(time.Now().Add(5 * time.Second))
	if n, err := uc.Read(make([]byte, 100)); n > 0 || errors.Is(err, context.DeadlineExceeded) || c.Connected() {
		t.Errorf("the client stays: %d bytes, %v", n, err)
	}
}

// A connection made anew would meet the same limit: the pod is told without its descriptor.
func TestClientWhoseDescriptorsMayNotTravel(t *testing.T) {
	f, err := os.Open(os.DevNull)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	c := NewClient(t.TempDir(), slog.New(slog.DiscardHandler))
	for _, tt := range []struct {
		refused, err error
		sent         []int // descriptors of each message
	}{
		{nil, nil, []int{1}},
		{unix.ETOOMANYREFS, nil, []int{1, 0}},
		{unix.EPIPE, unix.EPIPE, []int{1}},
	} {
		var sent []int
		err := c.sendFile(func(_ Type, _ any, fds ...int) error {
			if sent = append(sent, len(fds)); len(fds) > 0 && tt.refused != nil {
				return fmt.Errorf("send: %w", os.NewSyscallError("sendmsg", tt.refused))
			}
			return nil
		}, change{t: TypeCaptureUpdate, body: CaptureUpdate{}, netns: f})
		if !errors.Is(err, tt.err) || !slices.Equal(sent, tt.sent) {
			t.Errorf("refused with %v: %v, sent %v, want %v", tt.refused, err, sent, tt.sent)
		}
	}
}
