// SPDX-License-Identifier: Apache-2.0

package inpod

import (
	"errors"
	"io"
	"io/fs"
	"net"
	"net/netip"
	"os"
	"sync/atomic"
	"syscall"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

// socket is a TCP socket that the broker made, or that came of one: it has all its options. package net would set others
// on each connection, to be set back, and works on a copy of a descriptor that it is given: some twenty system calls for
// the two ends of a connection. Calls here never wait, so they go past Go's scheduler (RawSyscall): telling it wakes the
// watchdog thread of a process that was idle. accept alone may (see acceptance.take).
type socket struct {
	file          *os.File
	raw           syscall.RawConn
	closed        atomic.Bool
	local, remote netip.AddrPort
}

// newSocket takes over fd, also when it fails.
func newSocket(fd int) (*socket, error) {
	s := &socket{file: os.NewFile(uintptr(fd), "tcp")} // non-blocking already, so the runtime polls it
	err := s.file.SetDeadline(time.Time{})             // which it does not, if this fails
	if err == nil {
		s.raw, err = s.file.SyscallConn()
	}
	if err != nil {
		s.file.Close()
		return nil, err
	}
	return s, nil
}

// explain makes an error what package net would say.
func (s *socket) explain(op string, err error) error {
	if err == nil || err == io.EOF {
		return err
	}
	var path *fs.PathError
	switch {
	case s.closed.Load():
		err = net.ErrClosed
	case errors.As(err, &path):
		err = os.NewSyscallError(op, path.Err)
	}
	return &net.OpError{Op: op, Net: "tcp", Source: s.LocalAddr(), Addr: s.RemoteAddr(), Err: err}
}

func (s *socket) Read(p []byte) (int, error) {
	n, err := s.file.Read(p)
	return n, s.explain("read", err)
}

func (s *socket) Write(p []byte) (int, error) {
	n, err := s.file.Write(p)
	return n, s.explain("write", err)
}

func (s *socket) Close() error {
	if s.closed.Swap(true) {
		return s.explain("close", net.ErrClosed)
	}
	return s.explain("close", s.file.Close())
}

func (s *socket) LocalAddr() net.Addr  { return net.TCPAddrFromAddrPort(s.local) }
func (s *socket) RemoteAddr() net.Addr { return net.TCPAddrFromAddrPort(s.remote) }

func (s *socket) SetDeadline(t time.Time) error { return s.explain("set", s.file.SetDeadline(t)) }
func (s *socket) SetReadDeadline(t time.Time) error {
	return s.explain("set", s.file.SetReadDeadline(t))
}
func (s *socket) SetWriteDeadline(t time.Time) error {
	return s.explain("set", s.file.SetWriteDeadline(t))
}

// SyscallConn returns the same socket as its descriptor.
func (s *socket) SyscallConn() (syscall.RawConn, error) { return (*rawSocket)(s), nil }

// rawSocket is a socket whose Read and Write are a descriptor's.
type rawSocket socket

func (r *rawSocket) Control(f func(fd uintptr)) error {
	return (*socket)(r).explain("raw-control", r.raw.Control(f))
}

func (r *rawSocket) Read(f func(fd uintptr) (done bool)) error {
	return (*socket)(r).explain("raw-read", r.raw.Read(f))
}

func (r *rawSocket) Write(f func(fd uintptr) (done bool)) error {
	return (*socket)(r).explain("raw-write", r.raw.Write(f))
}

// call runs a system call on the descriptor.
func (s *socket) call(name string, f func(fd uintptr) syscall.Errno) error {
	var errno syscall.Errno
	if err := s.raw.Control(func(fd uintptr) { errno = f(fd) }); err != nil {
		return s.explain(name, err)
	}
	if errno != 0 {
		return s.explain(name, os.NewSyscallError(name, errno))
	}
	return nil
}

func (s *socket) CloseWrite() error {
	return s.call("shutdown", func(fd uintptr) syscall.Errno {
		_, _, errno := syscall.RawSyscall(syscall.SYS_SHUTDOWN, fd, syscall.SHUT_WR, 0)
		return errno
	})
}

// SetLinger is that of net.TCPConn.
func (s *socket) SetLinger(seconds int) error {
	l := unix.Linger{Onoff: 1, Linger: int32(seconds)}
	if seconds < 0 {
		l = unix.Linger{}
	}
	return s.call("setsockopt", func(fd uintptr) syscall.Errno {
		return setsockopt(fd, unix.SOL_SOCKET, unix.SO_LINGER, unsafe.Pointer(&l), unsafe.Sizeof(l))
	})
}

// SetKeepAliveConfig is that of net.TCPConn, with whole seconds and nothing left out.
func (s *socket) SetKeepAliveConfig(c net.KeepAliveConfig) error {
	enable := int32(0)
	if c.Enable {
		enable = 1
	}
	return s.call("setsockopt", func(fd uintptr) syscall.Errno {
		for _, o := range [...]struct {
			level, option int
			value         int32
		}{
			{unix.SOL_SOCKET, unix.SO_KEEPALIVE, enable}, {unix.SOL_TCP, unix.TCP_KEEPIDLE, int32(c.Idle / time.Second)},
			{unix.SOL_TCP, unix.TCP_KEEPINTVL, int32(c.Interval / time.Second)}, {unix.SOL_TCP, unix.TCP_KEEPCNT, int32(c.Count)},
		} {
			if errno := setsockopt(fd, o.level, o.option, unsafe.Pointer(&o.value), unsafe.Sizeof(o.value)); errno != 0 {
				return errno
			}
		}
		return 0
	})
}

func setsockopt(fd uintptr, level, option int, value unsafe.Pointer, size uintptr) syscall.Errno {
	_, _, errno := syscall.RawSyscall6(syscall.SYS_SETSOCKOPT, fd, uintptr(level), uintptr(option), uintptr(value), size, 0)
	return errno
}

// nameOf asks getsockname or getpeername.
func nameOf(trap, fd uintptr) (netip.AddrPort, syscall.Errno) {
	var a unix.RawSockaddrAny
	n := uint32(unsafe.Sizeof(a))
	_, _, errno := syscall.RawSyscall(trap, fd, uintptr(unsafe.Pointer(&a)), uintptr(unsafe.Pointer(&n)))
	return decodeSockaddr(&a), errno
}

// decodeSockaddr reads an address, unmapped; zero for one that is not IP.
func decodeSockaddr(a *unix.RawSockaddrAny) netip.AddrPort {
	switch a.Addr.Family {
	case unix.AF_INET:
		v4 := (*unix.RawSockaddrInet4)(unsafe.Pointer(a))
		return netip.AddrPortFrom(netip.AddrFrom4(v4.Addr), swapped(v4.Port))
	case unix.AF_INET6:
		v6 := (*unix.RawSockaddrInet6)(unsafe.Pointer(a))
		return netip.AddrPortFrom(netip.AddrFrom16(v6.Addr).Unmap(), swapped(v6.Port))
	}
	return netip.AddrPort{}
}

// swapped turns a port from the network's order into this machine's, or back. Both architectures are little-endian.
func swapped(port uint16) uint16 { return port<<8 | port>>8 }
