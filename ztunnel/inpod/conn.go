// SPDX-License-Identifier: Apache-2.0

package inpod

import (
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/warren-mesh/warren/mesh/broker"
)

// keepAlive is what the broker set on the sockets; the standard library sets its own when it wraps one.
var keepAlive = net.KeepAliveConfig{Enable: true, Idle: 180 * time.Second, Interval: 180 * time.Second, Count: 9}

// Conn is a connection in a pod's network namespace. Until Orderly, closing it (or dying with it) resets it, so
// that the other end never takes a broken stream for a finished one; a reset of the other end is read as
// ECONNRESET, its orderly end as io.EOF.
type Conn struct {
	*net.TCPConn
	local, remote netip.AddrPort
	outbound      bool
}

func newConn(c *net.TCPConn, outbound bool) *Conn {
	// Refused only on a connection that ended already; its first read tells.
	_ = c.SetKeepAliveConfig(keepAlive)
	return &Conn{TCPConn: c, outbound: outbound, local: addrPort(c.LocalAddr()), remote: addrPort(c.RemoteAddr())}
}

func addrPort(a net.Addr) netip.AddrPort {
	t, ok := a.(*net.TCPAddr)
	if !ok {
		return netip.AddrPort{}
	}
	ap := t.AddrPort()
	return netip.AddrPortFrom(ap.Addr().Unmap(), ap.Port())
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
	err := c.control(func(fd uintptr) error {
		_, _, e := unix.Syscall6(unix.SYS_GETSOCKOPT, fd, broker.SockoptLevel, broker.OptOriginalDestination,
			uintptr(unsafe.Pointer(&b)), uintptr(unsafe.Pointer(&n)), 0)
		if e != 0 {
			return os.NewSyscallError("getsockopt", e)
		}
		return nil
	})
	if err != nil {
		return netip.AddrPort{}, fmt.Errorf("read original destination: %w", err)
	}
	return broker.DecodeAddrPort(b[:min(int(n), len(b))])
}

func (c *Conn) control(f func(fd uintptr) error) error {
	rc, err := c.SyscallConn()
	if err != nil {
		return err
	}
	var ferr error
	if err := rc.Control(func(fd uintptr) { ferr = f(fd) }); err != nil {
		return err
	}
	return ferr
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

// ReadFrom copies from r to its end. From another Conn the bytes stay in the kernel (splice).
func (c *Conn) ReadFrom(r io.Reader) (int64, error) {
	if o, ok := r.(*Conn); ok {
		r = o.TCPConn
	}
	return c.TCPConn.ReadFrom(r)
}

// WriteTo copies to w until the peer's end. To another Conn the bytes stay in the kernel (splice).
func (c *Conn) WriteTo(w io.Writer) (int64, error) {
	if o, ok := w.(*Conn); ok {
		return o.TCPConn.ReadFrom(c.TCPConn)
	}
	return c.TCPConn.WriteTo(w)
}
