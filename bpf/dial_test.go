// SPDX-License-Identifier: Apache-2.0

package bpf

import (
	"errors"
	"net/netip"
	"os"
	"time"

	"golang.org/x/sys/unix"
)

// dial connects a socket within the time given. It returns the kernel's errno, or os.ErrDeadlineExceeded when no
// answer came.
func dial(fd int, dst netip.AddrPort, limit time.Duration) error {
	family, err := unix.GetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_DOMAIN)
	if err != nil {
		return err
	}
	if err := unix.SetNonblock(fd, true); err != nil {
		return err
	}
	if err := unix.Connect(fd, sockaddr(family, dst)); !errors.Is(err, unix.EINPROGRESS) {
		return err
	}
	n, err := poll(fd, limit)
	if err != nil {
		return err
	}
	if n == 0 {
		return os.ErrDeadlineExceeded
	}
	e, err := unix.GetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_ERROR)
	if err == nil && e != 0 {
		err = unix.Errno(e)
	}
	return err
}

// familyOf says which socket family an address needs.
func familyOf(a netip.Addr) int {
	if a.Is4() {
		return unix.AF_INET
	}
	return unix.AF_INET6
}

// dial connects from the pod as an application does.
func (p *pod) dial(dst netip.AddrPort) (fd int, err error) {
	p.t.Helper()
	fd = p.socket(familyOf(dst.Addr()), unix.SOCK_STREAM, 0)
	return fd, dial(fd, dst, answerTime)
}

const (
	// answerTime is ample for an answer, even if the first neighbour solicitation is lost.
	answerTime = 3 * time.Second
	// silence is how long a test waits for an answer that must not come.
	silence = 300 * time.Millisecond
)

// broker makes a socket as the broker does: AF_INET6 for both families, marked.
func (p *pod) broker(family int) int {
	p.t.Helper()
	fd := p.socket(family, unix.SOCK_STREAM, 0)
	must(p.t, p.node.d.Exempt(fd))
	return fd
}

func at(a netip.Addr, port uint16) netip.AddrPort { return netip.AddrPortFrom(a, port) }

// map4 is the address as an AF_INET6 socket is told it.
func map4(a netip.AddrPort) netip.AddrPort {
	return netip.AddrPortFrom(netip.AddrFrom16(a.Addr().As16()), a.Port())
}

// poll waits until the socket can be written to, through Go's own signals.
func poll(fd int, limit time.Duration) (n int, err error) {
	for end := time.Now().Add(limit); ; {
		left := max(time.Until(end), 0)
		n, err = unix.Poll([]unix.PollFd{{Fd: int32(fd), Events: unix.POLLOUT}}, int(left.Milliseconds()))
		if !errors.Is(err, unix.EINTR) {
			return n, err
		}
	}
}
