// SPDX-License-Identifier: Apache-2.0

package inpod

import (
	"fmt"
	"net"
	"os"

	"golang.org/x/sys/unix"
)

// Listener accepts one kind of a pod's connections. The broker holds the same socket: what waits in its
// backlog outlives this process.
type Listener struct {
	pod    string
	kind   Kind
	cookie uint64
	tcp    *net.TCPListener
}

// newListener takes over fd, also when it fails.
func newListener(pod string, kind Kind, fd int) (*Listener, error) {
	f := os.NewFile(uintptr(fd), "listener")
	defer f.Close()
	cookie, err := unix.GetsockoptUint64(fd, unix.SOL_SOCKET, unix.SO_COOKIE)
	if err != nil {
		return nil, fmt.Errorf("take %s listener of pod %s: %w", kind, pod, os.NewSyscallError("getsockopt", err))
	}
	l, err := net.FileListener(f)
	if err != nil {
		return nil, fmt.Errorf("take %s listener of pod %s: %w", kind, pod, err)
	}
	tl, ok := l.(*net.TCPListener)
	if !ok {
		l.Close()
		return nil, fmt.Errorf("take %s listener of pod %s: not TCP", kind, pod)
	}
	return &Listener{pod: pod, kind: kind, cookie: cookie, tcp: tl}, nil
}

// Accept waits for a connection. It fails with net.ErrClosed (wrapped) after Close, with EINVAL (wrapped) when
// somebody shut the socket down: the broker revives it within a second, so accept again. EMFILE and the like
// are temporary too.
func (l *Listener) Accept() (*Conn, error) {
	c, err := l.tcp.AcceptTCP()
	if err != nil {
		return nil, fmt.Errorf("accept %s of pod %s: %w", l.kind, l.pod, err)
	}
	return newConn(c, l.kind == Outbound), nil
}

// Close ends this process's accepting. The socket itself is not shut down: others accept from it.
func (l *Listener) Close() error { return l.tcp.Close() }

// Cookie is the socket's SO_COOKIE: the same in every process that holds it.
func (l *Listener) Cookie() uint64 { return l.cookie }

// Pod is the uid of the pod.
func (l *Listener) Pod() string { return l.pod }

// Kind is what the listener accepts.
func (l *Listener) Kind() Kind { return l.kind }

// withFD runs f with the descriptor; it fails once closed.
func (l *Listener) withFD(f func(fd int) error) error {
	rc, err := l.tcp.SyscallConn()
	if err != nil {
		return err
	}
	var ferr error
	if err := rc.Control(func(fd uintptr) { ferr = f(int(fd)) }); err != nil {
		return err
	}
	return ferr
}
