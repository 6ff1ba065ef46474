// SPDX-License-Identifier: Apache-2.0

package broker

import (
	"context"
	"errors"
	"io"
	"net"
	"os"
	"path/filepath"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// connected returns both ends of a connection.
func connected(t *testing.T) (*Conn, *Conn) {
	t.Helper()
	path := filepath.Join(t.TempDir(), "s.sock")
	l, err := Listen(path)
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	a, err := Dial(context.Background(), path)
	if err != nil {
		t.Fatal(err)
	}
	uc, err := l.AcceptUnix()
	if err != nil {
		t.Fatal(err)
	}
	b := NewConn(uc)
	t.Cleanup(func() { a.Close(); b.Close() })
	return a, b
}

func pipe(t *testing.T) (*os.File, *os.File) {
	t.Helper()
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { r.Close(); w.Close() })
	return r, w
}

func TestConnPassesDescriptors(t *testing.T) {
	a, b := connected(t)
	r, w := pipe(t)
	if err := a.Send(TypeListener, ListenerMessage{Pod: "p", Kind: HBONE, Cookie: 9}, int(w.Fd())); err != nil {
		t.Fatal(err)
	}
	m, fds, err := b.Recv()
	if err != nil || m.Type != TypeListener || len(fds) != 1 {
		t.Fatalf("got %+v, %d descriptors, %v", m, len(fds), err)
	}
	var lm ListenerMessage
	if err := m.Into(&lm); err != nil || lm != (ListenerMessage{Pod: "p", Kind: HBONE, Cookie: 9}) {
		t.Errorf("body %+v, %v", lm, err)
	}
	if flags, err := unix.FcntlInt(uintptr(fds[0]), unix.F_GETFD, 0); err != nil || flags&unix.FD_CLOEXEC == 0 {
		t.Errorf("descriptor survives exec: flags %#x, %v", flags, err)
	}
	f := os.NewFile(uintptr(fds[0]), "w")
	io.WriteString(f, "x")
	f.Close()
	w.Close()
	if got, err := io.ReadAll(r); err != nil || string(got) != "x" {
		t.Errorf("read %q, %v", got, err)
	}
}

func TestConnPassesAFullBatch(t *testing.T) {
	a, b := connected(t)
	_, w := pipe(t)
	fds := make([]int, MaxFDs)
	for i := range fds {
		fds[i] = int(w.Fd())
	}
	if err := a.Send(TypeSockets, Sockets{Pod: "p", Asked: MaxFDs, Given: MaxFDs}, fds...); err != nil {
		t.Fatal(err)
	}
	_, got, err := b.Recv()
	CloseFDs(got)
	if err != nil || len(got) != MaxFDs {
		t.Errorf("%d descriptors, %v", len(got), err)
	}
	if err := a.Send(TypeSockets, Sockets{}, append(fds, fds[0])...); !errors.Is(err, ErrTooLong) {
		t.Errorf("more than the kernel takes: %v", err)
	}
}

func TestConnSaysWhenDescriptorsAreLost(t *testing.T) {
	a, b := connected(t)
	b.oob = b.oob[:unix.CmsgSpace(4)] // room for one, as at RLIMIT_NOFILE
	_, w := pipe(t)
	if err := a.Send(TypeSockets, Sockets{Pod: "p"}, int(w.Fd()), int(w.Fd()), int(w.Fd())); err != nil {
		t.Fatal(err)
	}
	m, fds, err := b.Recv()
	if !errors.Is(err, ErrTruncate) || m.Type != TypeSockets || len(fds) != 0 {
		t.Errorf("got %+v, %v, %v", m, fds, err)
	}
}

func TestConnRefusesStrangeDatagrams(t *testing.T) {
	for name, tt := range map[string]struct {
		datagram []byte
		want     error
	}{
		"another version": {[]byte{Version + 1, byte(TypeHello), 0, 0, '{', '}'}, ErrVersion},
		"unknown type":    {[]byte{Version, 200, 0, 0, '{', '}'}, ErrType},
		"too long":        {append([]byte{Version, byte(TypeHello), 0, 0}, make([]byte, MaxBody+100)...), ErrTooLong},
	} {
		a, b := connected(t)
		_, w := pipe(t)
		before := openFDs(t)
		if _, _, err := a.uc.WriteMsgUnix(tt.datagram, unix.UnixRights(int(w.Fd())), nil); err != nil {
			t.Fatal(err)
		}
		if _, fds, err := b.Recv(); !errors.Is(err, tt.want) || len(fds) != 0 {
			t.Errorf("%s: %v, %v", name, fds, err)
		}
		if after := openFDs(t); after != before {
			t.Errorf("%s: %d descriptors open, before %d", name, after, before)
		}
	}
}

func openFDs(t *testing.T) int {
	t.Helper()
	es, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		t.Fatal(err)
	}
	return len(es)
}

func TestConnEnds(t *testing.T) {
	a, b := connected(t)
	a.Close()
	if _, _, err := b.Recv(); err != io.EOF {
		t.Errorf("after the peer closed: %v", err)
	}
	if _, _, err := a.Recv(); err != io.EOF {
		t.Errorf("after own close: %v", err)
	}
}

func TestSocketPathsNewestFirst(t *testing.T) {
	dir := t.TempDir()
	if got, err := SocketPaths(filepath.Join(dir, "missing"), "agent", "zds"); err != nil || len(got) != 0 {
		t.Errorf("missing directory: %v, %v", got, err)
	}
	var want []string
	for _, gen := range []string{"9", "1", "5"} {
		for _, what := range []string{"zds", "wds"} {
			path := filepath.Join(dir, SocketName("agent", gen, what))
			l, err := net.Listen("unix", path)
			if err != nil {
				t.Fatal(err)
			}
			defer l.Close()
			if what == "zds" {
				want = append([]string{path}, want...)
			}
		}
	}
	if err := os.WriteFile(filepath.Join(dir, "agent-7-zds.sock"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	got, err := SocketPaths(dir, "agent", "zds")
	if err != nil || len(got) != 3 {
		t.Fatalf("%v, %v", got, err)
	}
	if got[0] != want[0] && sameTime(t, got[0], want[0]) == false {
		t.Errorf("newest is %s, want %s", got[0], want[0])
	}
}

// TestSocketPathsOfOneKind: a part's socket of another kind is not taken for the one asked for.
func TestSocketPathsOfOneKind(t *testing.T) {
	dir := t.TempDir()
	plain, admin := filepath.Join(dir, SocketName("ztunnel", "1", "")), filepath.Join(dir, SocketName("ztunnel", "1", "admin"))
	for path, listen := range map[string]func(string) (*net.UnixListener, error){plain: Listen, admin: ListenStream} {
		l, err := listen(path)
		if err != nil {
			t.Fatal(err)
		}
		defer l.Close()
		if i, err := os.Stat(path); err != nil || i.Mode().Perm() != 0o660 {
			t.Errorf("%s: %v, %v", path, i.Mode(), err)
		}
	}
	for what, want := range map[string]string{"": plain, "admin": admin} {
		if got, err := SocketPaths(dir, "ztunnel", what); err != nil || len(got) != 1 || got[0] != want {
			t.Errorf("%q: %v, %v", what, got, err)
		}
	}
}

// sameTime tells whether the file system's clock was too coarse to order the two.
func sameTime(t *testing.T, a, b string) bool {
	t.Helper()
	x, err := os.Stat(a)
	if err != nil {
		t.Fatal(err)
	}
	y, err := os.Stat(b)
	if err != nil {
		t.Fatal(err)
	}
	return x.ModTime().Equal(y.ModTime())
}

// The deadline is of one message: the next may come whenever it likes.
func TestRecvWithin(t *testing.T) {
	a, b := connected(t)
	if _, _, err := b.RecvWithin(time.Millisecond); !errors.Is(err, os.ErrDeadlineExceeded) {
		t.Errorf("silence: %v", err)
	}
	if err := a.Send(TypeHello, Hello{}); err != nil {
		t.Fatal(err)
	}
	const short = 50 * time.Millisecond
	if _, _, err := b.RecvWithin(short); err != nil {
		t.Fatal(err)
	}
	late := time.AfterFunc(3*short, func() { _ = a.Send(TypeHello, Hello{}) })
	defer late.Stop()
	if _, _, err := b.Recv(); err != nil {
		t.Errorf("after the deadline: %v", err)
	}
}
