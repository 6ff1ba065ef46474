// SPDX-License-Identifier: Apache-2.0

package bpf

import (
	"encoding/binary"
	"errors"
	"net"
	"net/netip"
	"testing"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/warren-mesh/warren/mesh/reason"
)

func sockaddr(family int, dst netip.AddrPort) unix.Sockaddr {
	if family == unix.AF_INET {
		return &unix.SockaddrInet4{Addr: dst.Addr().As4(), Port: int(dst.Port())}
	}
	return &unix.SockaddrInet6{Addr: dst.Addr().As16(), Port: int(dst.Port())}
}

func addrPort(t *testing.T, sa unix.Sockaddr, err error) netip.AddrPort {
	t.Helper()
	must(t, err)
	switch sa := sa.(type) {
	case *unix.SockaddrInet4:
		return netip.AddrPortFrom(netip.AddrFrom4(sa.Addr), uint16(sa.Port))
	case *unix.SockaddrInet6:
		return netip.AddrPortFrom(netip.AddrFrom16(sa.Addr), uint16(sa.Port))
	}
	t.Fatalf("socket address %T", sa)
	return netip.AddrPort{}
}

func peerName(t *testing.T, fd int) netip.AddrPort {
	t.Helper()
	sa, err := unix.Getpeername(fd)
	return addrPort(t, sa, err)
}

func sockName(t *testing.T, fd int) netip.AddrPort {
	t.Helper()
	sa, err := unix.Getsockname(fd)
	return addrPort(t, sa, err)
}

func unmap(a netip.AddrPort) netip.AddrPort { return netip.AddrPortFrom(a.Addr().Unmap(), a.Port()) }

// accept takes one connection, within two seconds.
func accept(t *testing.T, l net.Listener) *net.TCPConn {
	t.Helper()
	must(t, l.(*net.TCPListener).SetDeadline(time.Now().Add(2*time.Second)))
	c := must1(l.Accept())(t)
	t.Cleanup(func() { c.Close() })
	return c.(*net.TCPConn)
}

// noConnection fails the test if somebody waits in the listener's queue.
func noConnection(t *testing.T, l net.Listener) {
	t.Helper()
	must(t, l.(*net.TCPListener).SetDeadline(time.Now().Add(20*time.Millisecond)))
	if c, err := l.Accept(); err == nil {
		t.Errorf("%v got a connection from %v", l.Addr(), c.RemoteAddr())
		c.Close()
	}
}

// originalDestination asks as ztunnel does.
func originalDestination(c *net.TCPConn) (netip.AddrPort, error) {
	rc, err := c.SyscallConn()
	if err != nil {
		return netip.AddrPort{}, err
	}
	var (
		b    [20]byte
		size = uint32(len(b))
		sys  unix.Errno
	)
	err = rc.Control(func(fd uintptr) {
		_, _, sys = unix.Syscall6(unix.SYS_GETSOCKOPT, fd, 0x5752, 1,
			uintptr(unsafe.Pointer(&b)), uintptr(unsafe.Pointer(&size)), 0)
	})
	if sys != 0 {
		err = sys
	}
	a := netip.AddrFrom16([16]byte(b[:16])).Unmap()
	return netip.AddrPortFrom(a, binary.BigEndian.Uint16(b[16:])), err
}

func setClient(fd int, client netip.AddrPort) error {
	var b [20]byte
	a := client.Addr().As16()
	copy(b[:], a[:])
	binary.BigEndian.PutUint16(b[16:], client.Port())
	return unix.SetsockoptString(fd, 0x5752, 2, string(b[:]))
}

// TestConnectVariants connects in every way an application may, and looks where it arrives.
func TestConnectVariants(t *testing.T) {
	n := newNode(t)
	p := n.newPod().capture()
	mapped := netip.AddrPortFrom(netip.AddrFrom16(outside4.Addr().As16()), outside4.Port())

	plain := func(fd, family int, dst netip.AddrPort) error { return unix.Connect(fd, sockaddr(family, dst)) }
	variants := []struct {
		name    string
		proto   int
		connect func(fd, family int, dst netip.AddrPort) error
	}{
		{"blocking", 0, plain},
		{"non-blocking", 0, connectNonBlocking},
		{"MSG_FASTOPEN", 0, func(fd, family int, dst netip.AddrPort) error {
			return unix.Sendto(fd, []byte("hello"), unix.MSG_FASTOPEN, sockaddr(family, dst))
		}},
		{"TCP_FASTOPEN_CONNECT", 0, func(fd, family int, dst netip.AddrPort) error {
			if err := unix.SetsockoptInt(fd, unix.SOL_TCP, unix.TCP_FASTOPEN_CONNECT, 1); err != nil {
				return err
			}
			if err := unix.Connect(fd, sockaddr(family, dst)); err != nil {
				return err
			}
			_, err := unix.Write(fd, []byte("hello"))
			return err
		}},
		{"bind to the pod's address", 0, func(fd, family int, dst netip.AddrPort) error {
			own := p.ip6
			if dst.Addr().Unmap().Is4() {
				own = netip.AddrFrom16(p.ip4.As16())
			}
			if family == unix.AF_INET {
				own = p.ip4
			}
			if err := unix.Bind(fd, sockaddr(family, netip.AddrPortFrom(own, 0))); err != nil {
				return err
			}
			return plain(fd, family, dst)
		}},
		{"SO_BINDTODEVICE", 0, func(fd, family int, dst netip.AddrPort) error {
			if err := unix.BindToDevice(fd, "eth0"); err != nil {
				return err
			}
			return plain(fd, family, dst)
		}},
		{"SO_MARK", 0, func(fd, family int, dst netip.AddrPort) error {
			if err := unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_MARK, 0x539); err != nil {
				return err
			}
			return plain(fd, family, dst)
		}},
		{"MPTCP", unix.IPPROTO_MPTCP, plain},
		{"io_uring", 0, connectRing},
		{"io_uring with SQPOLL", 0, connectRingThread},
	}
	families := []struct {
		name   string
		family int
		dst    netip.AddrPort
		own    netip.Addr
	}{
		{"IPv4", unix.AF_INET, outside4, p.ip4},
		{"IPv6", unix.AF_INET6, outside6, p.ip6},
		{"v4-mapped", unix.AF_INET6, mapped, netip.AddrFrom16(p.ip4.As16())},
	}
	for _, v := range variants {
		for _, f := range families {
			t.Run(v.name+"/"+f.name, func(t *testing.T) {
				fd := p.socket(f.family, unix.SOCK_STREAM, v.proto)
				err := v.connect(fd, f.family, f.dst)
				if errors.Is(err, errNoRing) {
					t.Skip(err)
				}
				must(t, err)
				c := accept(t, p.out)
				if got := must1(originalDestination(c))(t); got != unmap(f.dst) {
					t.Errorf("original destination is %v, want %v", got, unmap(f.dst))
				}
				if got := peerName(t, fd); got != f.dst {
					t.Errorf("application's getpeername is %v, want %v", got, f.dst)
				}
				if got := sockName(t, fd); got.Addr() != f.own {
					t.Errorf("application's getsockname is %v, want address %v", got, f.own)
				}
			})
		}
	}
	if n.stat(reason.CapturedOutbound) == 0 {
		t.Error("nothing is counted")
	}
}

func connectNonBlocking(fd, _ int, dst netip.AddrPort) error { return dial(fd, dst, answerTime) }
