// SPDX-License-Identifier: Apache-2.0

package escape

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"
)

// Way is one way for a process in a pod to open a TCP connection.
type Way struct {
	Name   string
	Mapped bool // an IPv6 socket and a v4-mapped address
	multi  bool // an MPTCP socket
	// before is done to the socket first; nil: nothing.
	before func(fd int, w *Attempt) error
	// connect is how it connects; nil: connect(2).
	connect func(fd int, to unix.Sockaddr, w *Attempt) error
	// Fails says that the mesh, or the kernel, must not let it connect at all.
	Fails bool
}

// Attempt is one use of a way.
type Attempt struct {
	From, To netip.AddrPort // From: the pod's address, port 0
	Family   int            // AF_INET or AF_INET6
	First    []byte         // what to send; TCP Fast Open sends it along
	Sent     int            // of it, already
}

// ports are source ports, each used once so that TIME_WAIT is never in the way.
var lowPort atomic.Uint32

func bindTo(port func() uint16, address func(*Attempt) netip.Addr) func(int, *Attempt) error {
	return func(fd int, w *Attempt) error {
		if err := unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_REUSEADDR, 1); err != nil {
			return err
		}
		return os.NewSyscallError("bind", unix.Bind(fd, sockaddr(w.Family, netip.AddrPortFrom(address(w), port()))))
	}
}

func own(w *Attempt) netip.Addr { return w.From.Addr() }

func fixed(port uint16) func() uint16 { return func() uint16 { return port } }

func mark(v int) Way {
	return Way{Name: fmt.Sprintf("SO_MARK %#x", v), before: func(fd int, _ *Attempt) error {
		return os.NewSyscallError("setsockopt SO_MARK", unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_MARK, v))
	}}
}

// Ways are those that an application, or someone who wants out, may think of.
var Ways = []Way{
	{Name: "connect"},
	{Name: "v4-mapped", Mapped: true},
	// Other meshes exempt these.
	mark(1), mark(0x539), mark(0x111), mark(0xfff), mark(-1),
	{Name: "bound to the pod's IP", before: bindTo(fixed(0), own)},
	{Name: "privileged source port", before: bindTo(func() uint16 { return uint16(lowPort.Add(1)) }, own)},
	{Name: "source port in the capture range", before: bindTo(func() uint16 { return uint16(61000 + lowPort.Add(1)%64) }, own)},
	{Name: "source port 15008", before: bindTo(fixed(15008), own), Fails: true}, // ztunnel listens there
	{Name: "source port 15001", before: bindTo(fixed(15001), own), Fails: true},
	{Name: "bound to loopback", before: bindTo(fixed(0), func(w *Attempt) netip.Addr {
		if w.Family == unix.AF_INET {
			return netip.MustParseAddr("127.0.0.1")
		}
		return netip.IPv6Loopback()
	})},
	{Name: "bound to a foreign address", Fails: true, before: func(fd int, w *Attempt) error {
		foreign := netip.MustParseAddr("10.244.1.77")
		if w.Family == unix.AF_INET6 {
			foreign = netip.MustParseAddr("fd00:244:1::77")
		}
		if err := unix.SetsockoptInt(fd, unix.SOL_IP, unix.IP_FREEBIND, 1); err != nil {
			return err
		}
		return bindTo(fixed(0), func(*Attempt) netip.Addr { return foreign })(fd, w)
	}},
	{Name: "bound to the device", before: func(fd int, _ *Attempt) error { return unix.BindToDevice(fd, "eth0") }},
	{Name: "connected to itself before", before: reconnect},
	{Name: "MPTCP", multi: true},
	{Name: "MSG_FASTOPEN", connect: fastOpen},
	{Name: "MSG_FASTOPEN on MPTCP", multi: true, connect: fastOpen},
	{Name: "TCP_FASTOPEN_CONNECT", before: func(fd int, _ *Attempt) error {
		return unix.SetsockoptInt(fd, unix.SOL_TCP, unix.TCP_FASTOPEN_CONNECT, 1)
	}},
	{Name: "io_uring", connect: func(fd int, to unix.Sockaddr, w *Attempt) error { return ringConnect(fd, w.Family, w.To, 0) }},
	{Name: "io_uring with a kernel thread", connect: func(fd int, to unix.Sockaddr, w *Attempt) error {
		return ringConnect(fd, w.Family, w.To, ringKernelThread)
	}},
}

// reconnect first connects to the pod's own loopback, which the mesh lets pass, and then lets go of that again.
func reconnect(fd int, w *Attempt) error {
	lo := netip.IPv6Loopback()
	if w.Family == unix.AF_INET {
		lo = netip.MustParseAddr("127.0.0.1")
	}
	_ = unix.Connect(fd, sockaddr(w.Family, netip.AddrPortFrom(lo, 9))) // nobody listens
	_ = connected(fd, 10*time.Second)
	// AF_UNSPEC; the socket can then be used anew.
	_, _, errno := unix.Syscall(unix.SYS_CONNECT, uintptr(fd), unspecAddress(), 16)
	if errno != 0 {
		return os.NewSyscallError("connect AF_UNSPEC", errno)
	}
	return nil
}

// fastOpen sends the first bytes with the SYN, or with the wish for a cookie.
func fastOpen(fd int, to unix.Sockaddr, w *Attempt) error {
	n, err := unix.SendmsgN(fd, w.First, nil, to, unix.MSG_FASTOPEN)
	if err == nil {
		w.Sent = n
	}
	return err
}

// connected waits until a non-blocking connect has an outcome.
func connected(fd int, within time.Duration) error {
	for end := time.Now().Add(within); time.Now().Before(end); {
		p := []unix.PollFd{{Fd: int32(fd), Events: unix.POLLOUT}}
		if n, err := unix.Poll(p, 100); n == 0 || errors.Is(err, unix.EINTR) {
			continue
		} else if err != nil {
			return err
		}
		code, err := unix.GetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_ERROR)
		if err == nil && code != 0 {
			err = unix.Errno(code)
		}
		return err
	}
	return os.ErrDeadlineExceeded
}

func sockaddr(family int, a netip.AddrPort) unix.Sockaddr {
	if family == unix.AF_INET {
		return &unix.SockaddrInet4{Port: int(a.Port()), Addr: a.Addr().As4()}
	}
	return &unix.SockaddrInet6{Port: int(a.Port()), Addr: a.Addr().As16()}
}

// Sockets opens sockets in a pod: what socket(2) returns there.
type Sockets func(family, kind, protocol int) (*os.File, error)

// Open uses the way from a pod. The connection it returns is bounded in time.
func (y Way) Open(socket Sockets, w *Attempt) (net.Conn, error) {
	protocol := 0
	if y.multi {
		protocol = unix.IPPROTO_MPTCP
	}
	f, err := socket(w.Family, unix.SOCK_STREAM|unix.SOCK_NONBLOCK, protocol)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	fd := int(f.Fd())
	if err := unix.SetNonblock(fd, true); err != nil { // Fd made it blocking
		return nil, err
	}
	if y.before != nil {
		if err := y.before(fd, w); err != nil {
			return nil, err
		}
	}
	to := sockaddr(w.Family, w.To)
	if y.connect != nil {
		err = y.connect(fd, to, w)
	} else {
		err = unix.Connect(fd, to)
	}
	if errors.Is(err, unix.EINPROGRESS) || errors.Is(err, unix.EINTR) {
		within := 10 * time.Second
		if y.Fails { // nobody answers; what left all the same is seen on the wire
			within = time.Second
		}
		err = connected(fd, within)
	}
	if err != nil {
		return nil, os.NewSyscallError("connect", err)
	}
	c, err := net.FileConn(f)
	if err != nil {
		return nil, err
	}
	_ = c.SetDeadline(time.Now().Add(15 * time.Second))
	return c, nil
}
