// SPDX-License-Identifier: Apache-2.0

package inpod

import (
	"errors"
	"net"
	"net/netip"
	"os"
	"runtime"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/warren-mesh/warren/mesh/broker"
)

// connected is a connection of the broker's sockets, and its other end.
func connected(t *testing.T) (d, a *Conn) {
	t.Helper()
	b, path := started(t)
	f := dialled(t, path)
	go f.serve()
	fd, cookie, at := listenSocket(t)
	f.send(broker.TypeListener, broker.ListenerMessage{Pod: "p", Kind: HBONE, Cookie: cookie}, fd)
	l := event(t, b).Listener
	d, err := b.Dial(t.Context(), "p", at, netip.AddrPort{})
	if err != nil {
		t.Fatal(err)
	}
	if a, err = l.Accept(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { d.Close(); a.Close() })
	return d, a
}

// TestOptionsStay: what the broker set holds on connections.
func TestOptionsStay(t *testing.T) {
	d, a := connected(t)
	for name, c := range map[string]*Conn{"dialled": d, "accepted": a} {
		rc, err := c.SyscallConn()
		if err != nil {
			t.Fatal(err)
		}
		_ = rc.Control(func(fd uintptr) {
			idle, _ := unix.GetsockoptInt(int(fd), unix.SOL_TCP, unix.TCP_KEEPIDLE)
			alive, _ := unix.GetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_KEEPALIVE)
			nagle, _ := unix.GetsockoptInt(int(fd), unix.SOL_TCP, unix.TCP_NODELAY)
			if idle != keepIdle || alive != 1 || nagle != 1 {
				t.Errorf("%s: keep-alive %d after %d s, TCP_NODELAY %d", name, alive, idle, nagle)
			}
		})
		if err := c.SetKeepAliveConfig(net.KeepAliveConfig{Enable: true, Idle: 5 * time.Second, Interval: 6 * time.Second, Count: 7}); err != nil {
			t.Error(err)
		}
		_ = rc.Control(func(fd uintptr) {
			idle, _ := unix.GetsockoptInt(int(fd), unix.SOL_TCP, unix.TCP_KEEPIDLE)
			every, _ := unix.GetsockoptInt(int(fd), unix.SOL_TCP, unix.TCP_KEEPINTVL)
			count, _ := unix.GetsockoptInt(int(fd), unix.SOL_TCP, unix.TCP_KEEPCNT)
			if idle != 5 || every != 6 || count != 7 {
				t.Errorf("%s: keep-alive after %d, every %d, %d times", name, idle, every, count)
			}
		})
	}
}

// TestSocketErrors are those of package net, also past Read and Write.
func TestSocketErrors(t *testing.T) {
	c, _ := connected(t)
	rc, err := c.SyscallConn()
	if err != nil {
		t.Fatal(err)
	}
	ways := map[string]func() error{
		"Read":    func() error { _, err := c.Read(make([]byte, 1)); return err },
		"RawRead": func() error { return rc.Read(func(uintptr) bool { return false }) },
	}
	for name, read := range ways {
		_ = c.SetReadDeadline(time.Unix(1, 0))
		err := read()
		var ne net.Error
		if !errors.Is(err, os.ErrDeadlineExceeded) || !errors.As(err, &ne) || !ne.Timeout() {
			t.Errorf("%s past the deadline: %v", name, err)
		}
	}
	_ = c.SetReadDeadline(time.Time{})
	woken := make(chan error, 1)
	go func() { woken <- ways["RawRead"]() }()
	if err := c.Close(); err != nil {
		t.Error(err)
	}
	if err := <-woken; !errors.Is(err, net.ErrClosed) {
		t.Errorf("a reader that waited, after Close: %v", err)
	}
	ways["Write"] = func() error { _, err := c.Write([]byte{1}); return err }
	ways["RawWrite"] = func() error { return rc.Write(func(uintptr) bool { return true }) }
	ways["Control"] = func() error { return rc.Control(func(uintptr) {}) }
	ways["Close"], ways["CloseWrite"], ways["Orderly"], ways["Reset"] = c.Close, c.CloseWrite, c.Orderly, c.Reset
	for name, call := range ways {
		if err := call(); !errors.Is(err, net.ErrClosed) {
			t.Errorf("%s after Close: %v", name, err)
		}
	}
	if _, err := c.OriginalDestination(); err != nil {
		t.Errorf("the destination of one that was not captured: %v", err)
	}
}

// TestListenerThatWasMadeToBlock: whoever holds a listener can have it wait in accept for all. The next ztunnel undoes that.
func TestListenerThatWasMadeToBlock(t *testing.T) {
	b, path := started(t)
	f := dialled(t, path)
	go f.serve()
	fd, cookie, at := listenSocket(t)
	if err := unix.SetNonblock(fd, false); err != nil {
		t.Fatal(err)
	}
	f.send(broker.TypeListener, broker.ListenerMessage{Pod: "p", Kind: HBONE, Cookie: cookie}, fd)
	l := event(t, b).Listener
	d, err := b.Dial(t.Context(), "p", at, netip.AddrPort{})
	if err != nil {
		t.Fatal(err)
	}
	defer d.Close()
	a, err := l.Accept()
	if err != nil {
		t.Fatal(err)
	}
	a.Close()
	ended := make(chan error, 1)
	go func() { _, err := l.Accept(); ended <- err }()
	l.Close()
	if err := <-ended; !errors.Is(err, net.ErrClosed) {
		t.Errorf("after Close: %v", err)
	}
}

// TestAcceptThatBlocks: who shares a listener can have it block while ztunnel accepts, too. Nothing else may wait for it: with
// one thread to run Go on, the test would not go on.
func TestAcceptThatBlocks(t *testing.T) {
	defer runtime.GOMAXPROCS(runtime.GOMAXPROCS(1))
	fd, _, at := listenSocket(t)
	own, err := unix.Dup(fd)
	if err != nil {
		t.Fatal(err)
	}
	l, err := newListener("p", HBONE, own)
	if err != nil {
		t.Fatal(err)
	}
	if err := unix.SetNonblock(fd, false); err != nil {
		t.Fatal(err)
	}
	accepted := make(chan *Conn, 1)
	began := make(chan struct{})
	go func() {
		close(began)
		c, err := l.Accept()
		if err != nil {
			t.Error(err)
		}
		accepted <- c
	}()
	<-began
	for range 1000 { // it is in accept soon
		runtime.Gosched()
	}
	c, err := net.Dial("tcp", at.String())
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	if a := <-accepted; a != nil {
		a.Close()
	}
	if err := l.Close(); err != nil {
		t.Error(err)
	}
}
