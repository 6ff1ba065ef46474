// SPDX-License-Identifier: Apache-2.0

package broker

import (
	"errors"
	"fmt"
	"os"

	"golang.org/x/sys/unix"

	wire "github.com/warren-mesh/warren/mesh/broker"
)

const backlog = 4096 // the kernel bounds it by net.core.somaxconn

// listener is one of a pod's listeners, shared with ztunnel.
type listener struct {
	fd     int
	cookie uint64
}

// makeListener is called on a thread in the pod's namespace.
func makeListener(kind wire.Kind) (*listener, error) {
	fd, ipv4, err := tcpSocket()
	if err != nil {
		return nil, fmt.Errorf("make %s listener: %w", kind, err)
	}
	err = os.NewSyscallError("setsockopt", unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_REUSEADDR, 1))
	if err == nil && ipv4 {
		err = os.NewSyscallError("bind", unix.Bind(fd, &unix.SockaddrInet4{Port: kind.Port()}))
	} else if err == nil {
		err = os.NewSyscallError("bind", unix.Bind(fd, &unix.SockaddrInet6{Port: kind.Port()}))
	}
	if err == nil {
		err = os.NewSyscallError("listen", unix.Listen(fd, backlog))
	}
	var cookie uint64
	if err == nil {
		cookie, err = unix.GetsockoptUint64(fd, unix.SOL_SOCKET, unix.SO_COOKIE)
	}
	if err != nil {
		unix.Close(fd)
		return nil, fmt.Errorf("make %s listener on port %d: %w", kind, kind.Port(), err)
	}
	return &listener{fd: fd, cookie: cookie}, nil
}

// adoptListener looks at a socket somebody handed over: it must be a TCP socket of the namespace, bound to the
// kind's port. On an error the descriptor still is the caller's.
func adoptListener(kind wire.Kind, fd int, netns uint64) (*listener, error) {
	protocol, err := unix.GetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_PROTOCOL)
	if err != nil {
		return nil, fmt.Errorf("adopt %s listener: %w", kind, os.NewSyscallError("getsockopt", err))
	}
	where, err := unix.GetsockoptUint64(fd, unix.SOL_SOCKET, unix.SO_NETNS_COOKIE)
	if err != nil {
		return nil, fmt.Errorf("adopt %s listener: %w", kind, os.NewSyscallError("getsockopt", err))
	}
	cookie, err := unix.GetsockoptUint64(fd, unix.SOL_SOCKET, unix.SO_COOKIE)
	if err != nil {
		return nil, fmt.Errorf("adopt %s listener: %w", kind, os.NewSyscallError("getsockopt", err))
	}
	sa, err := unix.Getsockname(fd)
	if err != nil {
		return nil, fmt.Errorf("adopt %s listener: %w", kind, os.NewSyscallError("getsockname", err))
	}
	port := 0
	switch a := sa.(type) {
	case *unix.SockaddrInet6:
		port = a.Port
	case *unix.SockaddrInet4:
		port = a.Port
	}
	if protocol != unix.IPPROTO_TCP || where != netns || port != kind.Port() {
		return nil, fmt.Errorf("adopt %s listener: not one (protocol %d, port %d, netns cookie %d of %d)", kind, protocol, port, where, netns)
	}
	return &listener{fd: fd, cookie: cookie}, nil
}

// listening reports whether the socket accepts: shutdown(2) by anyone who holds it ends that for all.
func (l *listener) listening() bool {
	info, err := unix.GetsockoptTCPInfo(l.fd, unix.IPPROTO_TCP, unix.TCP_INFO)
	return err == nil && info.State == tcpListen
}

const tcpListen = 10 // TCP_LISTEN of include/net/tcp_states.h

// revive makes a socket listen again that somebody shut down; it kept its port.
func (l *listener) revive() error {
	return os.NewSyscallError("listen", unix.Listen(l.fd, backlog))
}

// endAbruptly makes the end of whoever holds the socket a reset; accepted sockets inherit this.
func endAbruptly(fd int) error {
	return unix.SetsockoptLinger(fd, unix.SOL_SOCKET, unix.SO_LINGER, &unix.Linger{Onoff: 1, Linger: 0})
}

func (l *listener) close() { unix.Close(l.fd) }

// tcpSocket makes a TCP socket for both families, or for IPv4 where the kernel has no IPv6, with what listeners
// and dial sockets have in common. Plain TCP: multipath sockets can't be put into a socket map.
func tcpSocket() (fd int, ipv4 bool, err error) {
	const kind = unix.SOCK_STREAM | unix.SOCK_CLOEXEC | unix.SOCK_NONBLOCK
	fd, err = unix.Socket(unix.AF_INET6, kind, unix.IPPROTO_TCP)
	if errors.Is(err, unix.EAFNOSUPPORT) {
		ipv4 = true
		fd, err = unix.Socket(unix.AF_INET, kind, unix.IPPROTO_TCP)
	}
	if err != nil {
		return -1, false, os.NewSyscallError("socket", err)
	}
	set := func(level, option, value int) {
		if err == nil {
			err = unix.SetsockoptInt(fd, level, option, value)
		}
	}
	if !ipv4 {
		set(unix.SOL_IPV6, unix.IPV6_V6ONLY, 0)
	}
	set(unix.SOL_TCP, unix.TCP_NODELAY, 1)
	set(unix.SOL_SOCKET, unix.SO_KEEPALIVE, 1)
	set(unix.SOL_TCP, unix.TCP_KEEPIDLE, 180)
	set(unix.SOL_TCP, unix.TCP_KEEPINTVL, 180)
	set(unix.SOL_TCP, unix.TCP_KEEPCNT, 9)
	if err == nil {
		err = endAbruptly(fd)
	}
	if err != nil {
		unix.Close(fd)
		return -1, false, os.NewSyscallError("setsockopt", err)
	}
	return fd, ipv4, nil
}
