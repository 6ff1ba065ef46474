// SPDX-License-Identifier: Apache-2.0

package inpod

import (
	"fmt"
	"net"
	"net/netip"
	"os"
	"syscall"
	"unsafe"

	"github.com/warren-mesh/warren/mesh/broker"
)

// Conn is a connection in a pod's network namespace. Until Orderly, closing it (or dying with it) resets it, so
// that the other end never takes a broken stream for a finished one; a reset of the other end is read as
// ECONNRESET, its orderly end as io.EOF.
type Conn struct {
	transport
	local, remote netip.AddrPort
	outbound      bool
}

// transport is a *socket, or a *net.TCPConn that did not come from the broker.
type transport interface {
	net.Conn
	syscall.Conn
	CloseWrite() error
	SetLinger(seconds int) error
	SetKeepAliveConfig(net.KeepAliveConfig) error
}

func newConn(s *socket, outbound bool) *Conn {
	return &Conn{transport: s, outbound: outbound, local: s.local, remote: s.remote}
}

// LocalAddrPort is the connection's own end, unmapped. On an inbound one it is where the peer wanted to go.
func (c *Conn) LocalAddrPort() netip.AddrPort { return c.local }

// RemoteAddrPort is the peer, unmapped.
func (c *Conn) RemoteAddrPort() netip.AddrPort { return c.remote }

// OriginalDestination is where the peer wanted to go: on an accepted outbound connection what the kernel
// programs stored, elsewhere the local address. It fails with ENOPROTOOPT (wrapped) where nothing was stored,
// as for a connection that came to the listener by itself: such a one must be reset.
func (c *Conn) OriginalDestination() (netip.AddrPort, error) {
	if !c.outbound {
		return c.local, nil
	}
	var b [broker.SockoptSize]byte
	n := uint32(len(b))
	rc, err := c.SyscallConn()
	if err != nil {
		return netip.AddrPort{}, fmt.Errorf("read original destination: %w", err)
	}
	var errno syscall.Errno
	err = rc.Control(func(fd uintptr) {
		_, _, errno = syscall.RawSyscall6(syscall.SYS_GETSOCKOPT, fd, broker.SockoptLevel, broker.OptOriginalDestination,
			uintptr(unsafe.Pointer(&b)), uintptr(unsafe.Pointer(&n)), 0)
	})
	if err == nil && errno != 0 {
		err = os.NewSyscallError("getsockopt", errno)
	}
	if err != nil {
		return netip.AddrPort{}, fmt.Errorf("read original destination: %w", err)
	}
	return broker.DecodeAddrPort(b[:min(int(n), len(b))])
}

// Orderly says that both directions ended as they should: Close sends FIN from now on.
func (c *Conn) Orderly() error { return c.SetLinger(-1) }

// Reset closes the connection with RST, whatever was said before.
func (c *Conn) Reset() error {
	err := c.SetLinger(0)
	if cerr := c.Close(); err == nil {
		err = cerr
	}
	return err
}
