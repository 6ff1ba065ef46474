// SPDX-License-Identifier: Apache-2.0

package inpod

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"syscall"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/warren-mesh/warren/mesh/broker"
)

// Dial connects from the pod's network namespace; see Sockets. A socket that failed is closed: its kernel
// state is spent.
func (b *Broker) Dial(ctx context.Context, pod string, dst, client netip.AddrPort) (*Conn, error) {
	if !dst.IsValid() || dst.Port() == 0 {
		return nil, fmt.Errorf("dial from pod %s: no destination", pod)
	}
	s, err := b.pool(pod).get(ctx, b.wait)
	if err != nil {
		return nil, fmt.Errorf("dial %v from pod %s: %w", dst, pod, err)
	}
	c, err := connect(ctx, s, dst, client)
	if err != nil {
		return nil, fmt.Errorf("dial %v from pod %s: %w", dst, pod, err)
	}
	return newConn(c, false), nil
}

// DialSelf connects from ztunnel's own network namespace; see Sockets. Its connections end in order: closing
// one sends FIN.
func (b *Broker) DialSelf(ctx context.Context, dst netip.AddrPort) (net.Conn, error) {
	s, err := b.pool("").get(ctx, b.wait)
	if err != nil {
		return nil, fmt.Errorf("dial %v: %w", dst, err)
	}
	c, err := connect(ctx, s, dst, netip.AddrPort{})
	if err != nil {
		return nil, fmt.Errorf("dial %v: %w", dst, err)
	}
	if err := c.SetLinger(-1); err != nil {
		c.Close()
		return nil, fmt.Errorf("dial %v: %w", dst, err)
	}
	return c, nil
}

// connect consumes the socket.
func connect(ctx context.Context, d dialSocket, dst, client netip.AddrPort) (*socket, error) {
	s, err := begin(d, dst, client)
	if err != nil {
		return nil, err
	}
	if err := s.awaitConnected(ctx); err != nil {
		s.Close()
		return nil, err
	}
	return s, nil
}

// begin sends the SYN.
func begin(d dialSocket, dst, client netip.AddrPort) (*socket, error) {
	fd := uintptr(d.fd)
	name, size, err := encodeSockaddr(dst, d.ipv4Only)
	if err == nil && client.IsValid() {
		v := broker.EncodeAddrPort(client)
		if errno := setsockopt(fd, broker.SockoptLevel, broker.OptClientAddress, unsafe.Pointer(&v), uintptr(len(v))); errno != 0 {
			err = fmt.Errorf("show client address: %w", os.NewSyscallError("setsockopt", errno))
		}
	}
	if err == nil {
		_, _, errno := syscall.RawSyscall(syscall.SYS_CONNECT, fd, uintptr(unsafe.Pointer(&name)), size)
		if errno != 0 && errno != unix.EINPROGRESS && errno != unix.EINTR {
			err = os.NewSyscallError("connect", errno)
		}
	}
	if err != nil {
		unix.Close(d.fd)
		return nil, err
	}
	return newSocket(d.fd)
}

// encodeSockaddr is of one family for both: the socket is dual-stack, IPv4 goes as v4-mapped.
func encodeSockaddr(dst netip.AddrPort, ipv4Only bool) (name unix.RawSockaddrInet6, size uintptr, err error) {
	if !ipv4Only {
		name = unix.RawSockaddrInet6{Family: unix.AF_INET6, Port: swapped(dst.Port()), Addr: dst.Addr().As16()}
		return name, unsafe.Sizeof(name), nil
	}
	a := dst.Addr().Unmap()
	if !a.Is4() {
		return name, 0, os.NewSyscallError("connect", syscall.EAFNOSUPPORT)
	}
	v4 := (*unix.RawSockaddrInet4)(unsafe.Pointer(&name)) // the smaller one, and its beginning is the same
	*v4 = unix.RawSockaddrInet4{Family: unix.AF_INET, Port: swapped(dst.Port()), Addr: a.As4()}
	return name, unsafe.Sizeof(*v4), nil
}

// awaitConnected waits for the connect in progress, and learns the socket's addresses.
func (s *socket) awaitConnected(ctx context.Context) error {
	var failed error
	connected := func(fd uintptr) bool {
		var errno syscall.Errno
		if s.remote, errno = nameOf(syscall.SYS_GETPEERNAME, fd); errno == 0 {
			s.local, errno = nameOf(syscall.SYS_GETSOCKNAME, fd)
			failed = os.NewSyscallError("getsockname", errno0(errno))
			return true
		}
		switch e, err := unix.GetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_ERROR); {
		case err != nil:
			failed = os.NewSyscallError("getsockopt", err)
		case e != 0:
			failed = os.NewSyscallError("connect", syscall.Errno(e))
		}
		return failed != nil
	}
	now := false // in a pod, mostly, before connect returns
	err := s.raw.Control(func(fd uintptr) { now = connected(fd) })
	if err == nil && !now {
		stop := context.AfterFunc(ctx, func() { _ = s.file.SetWriteDeadline(time.Unix(1, 0)) })
		err = s.raw.Write(connected)
		if !stop() && err == nil && failed == nil { // the deadline is set, or about to be
			err = ctx.Err()
		}
	}
	switch {
	case failed != nil:
		return failed
	case errors.Is(err, os.ErrDeadlineExceeded) && ctx.Err() != nil:
		return ctx.Err()
	}
	return err
}

// errno0 is nil for none.
func errno0(e syscall.Errno) error {
	if e == 0 {
		return nil
	}
	return e
}
