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
func connect(ctx context.Context, s dialSocket, dst, client netip.AddrPort) (*net.TCPConn, error) {
	f := os.NewFile(uintptr(s.fd), "dial") // non-blocking already, so the runtime polls it
	defer f.Close()
	if client.IsValid() {
		v := broker.EncodeAddrPort(client)
		if err := unix.SetsockoptString(s.fd, broker.SockoptLevel, broker.OptClientAddress, string(v[:])); err != nil {
			return nil, fmt.Errorf("show client address: %w", os.NewSyscallError("setsockopt", err))
		}
	}
	sa, err := sockaddr(dst, s.ipv4Only)
	if err != nil {
		return nil, err
	}
	switch err := unix.Connect(s.fd, sa); err {
	case nil:
	case unix.EINPROGRESS, unix.EINTR:
		if err := waitConnected(ctx, f); err != nil {
			return nil, err
		}
	default:
		return nil, os.NewSyscallError("connect", err)
	}
	// The copy is the one that splice works on.
	c, err := net.FileConn(f)
	if err != nil {
		return nil, err
	}
	return c.(*net.TCPConn), nil
}

func sockaddr(dst netip.AddrPort, ipv4Only bool) (unix.Sockaddr, error) {
	if !ipv4Only {
		// One family for both: the socket is dual-stack, IPv4 goes as v4-mapped.
		return &unix.SockaddrInet6{Port: int(dst.Port()), Addr: dst.Addr().As16()}, nil
	}
	if a := dst.Addr().Unmap(); a.Is4() {
		return &unix.SockaddrInet4{Port: int(dst.Port()), Addr: a.As4()}, nil
	}
	return nil, os.NewSyscallError("connect", syscall.EAFNOSUPPORT)
}

// waitConnected waits for a connect in progress.
func waitConnected(ctx context.Context, f *os.File) error {
	stop := context.AfterFunc(ctx, func() { _ = f.SetWriteDeadline(time.Unix(1, 0)) })
	defer stop()
	rc, err := f.SyscallConn()
	if err != nil {
		return err
	}
	var cerr error
	err = rc.Write(func(fd uintptr) bool {
		e, err := unix.GetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_ERROR)
		switch {
		case err != nil:
			cerr = os.NewSyscallError("getsockopt", err)
			return true
		case e != 0:
			cerr = os.NewSyscallError("connect", syscall.Errno(e))
			return true
		}
		_, err = unix.Getpeername(int(fd))
		return err == nil
	})
	switch {
	case cerr != nil:
		return cerr
	case errors.Is(err, os.ErrDeadlineExceeded) && ctx.Err() != nil:
		return ctx.Err()
	}
	return err
}
