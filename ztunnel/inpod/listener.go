// SPDX-License-Identifier: Apache-2.0

package inpod

import (
	"errors"
	"fmt"
	"os"
	"syscall"
	"unsafe"

	"golang.org/x/sys/unix"
)

// Listener accepts one kind of a pod's connections. The broker holds the same socket: what waits in its
// backlog outlives this process.
type Listener struct {
	pod    string
	kind   Kind
	cookie uint64
	socket *socket
}

// newListener takes over fd, also when it fails.
func newListener(pod string, kind Kind, fd int) (*Listener, error) {
	cookie, err := unix.GetsockoptUint64(fd, unix.SOL_SOCKET, unix.SO_COOKIE)
	if err == nil {
		err = wantTCP(fd)
	}
	if err == nil { // whoever holds the socket too may have had it block, for all
		err = os.NewSyscallError("fcntl", unix.SetNonblock(fd, true))
	}
	if err != nil {
		unix.Close(fd)
		return nil, fmt.Errorf("take %s listener of pod %s: %w", kind, pod, err)
	}
	s, err := newSocket(fd)
	if err != nil {
		return nil, fmt.Errorf("take %s listener of pod %s: %w", kind, pod, err)
	}
	s.local, _ = nameOf(syscall.SYS_GETSOCKNAME, uintptr(fd))
	return &Listener{pod: pod, kind: kind, cookie: cookie, socket: s}, nil
}

func wantTCP(fd int) error {
	protocol, err := unix.GetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_PROTOCOL)
	if err == nil && protocol != unix.IPPROTO_TCP {
		return errors.New("not TCP")
	}
	return os.NewSyscallError("getsockopt", err)
}

// Accept waits for a connection. It fails with net.ErrClosed (wrapped) after Close, with EINVAL (wrapped) when
// somebody shut the socket down: the broker revives it within a second, so accept again. EMFILE and the like
// are temporary too.
func (l *Listener) Accept() (*Conn, error) {
	var a acceptance
	err := l.socket.raw.Read(a.take)
	if err != nil {
		err = l.socket.explain("accept", err)
	} else if a.errno != 0 {
		err = os.NewSyscallError("accept4", a.errno)
	}
	var s *socket
	if err == nil {
		s, err = newSocket(a.fd)
	}
	if err != nil {
		return nil, fmt.Errorf("accept %s of pod %s: %w", l.kind, l.pod, err)
	}
	s.remote = decodeSockaddr(&a.from)
	s.local, _ = nameOf(syscall.SYS_GETSOCKNAME, uintptr(a.fd))
	return newConn(s, l.kind == Outbound), nil
}

// acceptance is what accept4 answered.
type acceptance struct {
	fd    int
	from  unix.RawSockaddrAny
	errno syscall.Errno
}

// take accepts one; false has the netpoller wait. Go's scheduler is told of this call, unlike of those on sockets that are
// ztunnel's alone: who shares the listener may have it block, which then costs no more than a thread.
func (a *acceptance) take(listener uintptr) bool {
	for {
		size := uint32(unsafe.Sizeof(a.from))
		fd, _, errno := syscall.Syscall6(syscall.SYS_ACCEPT4, listener, uintptr(unsafe.Pointer(&a.from)), uintptr(unsafe.Pointer(&size)),
			unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC, 0, 0)
		a.fd, a.errno = int(fd), errno
		if errno != unix.EINTR && errno != unix.ECONNABORTED { // one that gave up meanwhile
			return errno != unix.EAGAIN
		}
	}
}

// Close ends this process's accepting. The socket itself is not shut down: others accept from it.
func (l *Listener) Close() error { return l.socket.Close() }

// Cookie is the socket's SO_COOKIE: the same in every process that holds it.
func (l *Listener) Cookie() uint64 { return l.cookie }

// Pod is the uid of the pod.
func (l *Listener) Pod() string { return l.pod }

// Kind is what the listener accepts.
func (l *Listener) Kind() Kind { return l.kind }

// withFD runs f with the descriptor; it fails once closed.
func (l *Listener) withFD(f func(fd int) error) error {
	var ferr error
	if err := l.socket.raw.Control(func(fd uintptr) { ferr = f(int(fd)) }); err != nil {
		return l.socket.explain("control", err)
	}
	return ferr
}
