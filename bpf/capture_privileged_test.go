// SPDX-License-Identifier: Apache-2.0

package bpf

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"sync"
	"testing"
	"time"
	"unsafe"

	"github.com/cilium/ebpf"
	"golang.org/x/sys/unix"

	"github.com/warren-mesh/warren/mesh/reason"
)

func TestSocketsMadeBeforeCapture(t *testing.T) {
	n := newNode(t)
	p := n.newPod()
	fd := p.socket(unix.AF_INET, unix.SOCK_STREAM, 0)
	p.capture()
	must(t, dial(fd, outside4, answerTime))
	if got := must1(originalDestination(accept(t, p.out)))(t); got != outside4 {
		t.Errorf("original destination is %v, want %v", got, outside4)
	}
}

func TestConnectionsBeforeCaptureGoOn(t *testing.T) {
	n := newNode(t)
	p, peer := n.newPod(), n.newPod()
	l := peer.listen("[::]:80")
	fd := must1(p.dial(at(peer.ip4, 80)))(t)
	c := accept(t, l)
	p.capture()
	must1(unix.Write(fd, []byte("ping")))(t)
	must(t, c.SetReadDeadline(time.Now().Add(2*time.Second)))
	must1(c.Read(make([]byte, 4)))(t)
	if got := peerName(t, fd); got != at(peer.ip4, 80) {
		t.Errorf("peer is %v", got)
	}
}

func TestUncapturedPodsAreUntouched(t *testing.T) {
	n := newNode(t)
	p, peer := n.newPod(), n.newPod()
	p.attach() // steers nothing before Enable
	l, own := peer.listen("[::]:80"), p.listen("[::]:80")
	for _, dst := range []netip.Addr{peer.ip4, peer.ip6} {
		must1(p.dial(at(dst, 80)))(t)
		accept(t, l)
	}
	for _, dst := range []netip.Addr{p.ip4, p.ip6} {
		must1(peer.dial(at(dst, 80)))(t)
		accept(t, own)
	}
	noConnection(t, p.out)
	noConnection(t, p.plain)
}

// TestPass goes where the mesh has no part.
func TestPass(t *testing.T) {
	n := newNode(t)
	p, peer := n.newPod().capture(), n.newPod()
	must(t, n.d.SetExceptions([]netip.Prefix{
		netip.PrefixFrom(peer.ip4, 32), netip.PrefixFrom(peer.ip6, 128), netip.MustParsePrefix("203.0.113.0/24"),
	}))
	app, far := p.listen("[::]:80"), peer.listen("[::]:80")
	mapped := func(a netip.Addr) netip.Addr { return netip.AddrFrom16(a.As16()) }
	tests := []struct {
		name string
		dst  netip.Addr
		at   net.Listener
		why  reason.Reason
	}{
		{"IPv4 loopback", netip.MustParseAddr("127.0.0.1"), app, reason.Loopback},
		{"IPv4 loopback, another", netip.MustParseAddr("127.9.9.9"), app, reason.Loopback},
		{"v4-mapped loopback", netip.MustParseAddr("::ffff:127.0.0.1"), app, reason.Loopback},
		{"IPv6 loopback", netip.MustParseAddr("::1"), app, reason.Loopback},
		{"unspecified IPv4", netip.MustParseAddr("0.0.0.0"), app, reason.Loopback},
		{"unspecified IPv6", netip.MustParseAddr("::"), app, reason.Loopback},
		// The connection is reported with eth0's index: a program that judged by the interface would loop here.
		{"own IPv4", p.ip4, app, reason.Loopback},
		{"own IPv4 mapped", mapped(p.ip4), app, reason.Loopback},
		{"own IPv6", p.ip6, app, reason.Loopback},
		{"excepted IPv4", peer.ip4, far, reason.Excepted},
		{"excepted IPv4 mapped", mapped(peer.ip4), far, reason.Excepted},
		{"excepted IPv6", peer.ip6, far, reason.Excepted},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			before := n.stat(tt.why)
			fd, err := p.dial(at(tt.dst, 80))
			must(t, err)
			accept(t, tt.at)
			if got := peerName(t, fd); got.Port() != 80 {
				t.Errorf("peer is %v", got)
			}
			if n.stat(tt.why) == before {
				t.Errorf("not counted as %v", tt.why)
			}
		})
	}
	noConnection(t, p.out)
	noConnection(t, p.plain)

	must(t, n.d.SetExceptions(nil))
	must1(p.dial(at(peer.ip4, 80)))(t)
	accept(t, p.out)
}

func TestLinkLocalPasses(t *testing.T) {
	n := newNode(t)
	p := n.newPod().capture()
	for _, dst := range []string{"169.254.169.254", "::ffff:169.254.169.254", "fe80::1%1"} {
		before := n.stat(reason.Excepted)
		a := netip.MustParseAddr(dst).WithZone("")
		dial(p.socket(familyOf(a), unix.SOCK_STREAM, 0), at(a, 80), 0) // nobody is there
		if n.stat(reason.Excepted) == before {
			t.Errorf("%s is not counted as excepted", dst)
		}
	}
	noConnection(t, p.out)
}

// TestReservedPorts tries the mesh's own ports, from inside and from outside the pod.
func TestReservedPorts(t *testing.T) {
	n := newNode(t)
	p, peer := n.newPod().capture(), n.newPod()
	for _, port := range []uint16{15001, 15006, 15008, 15053} {
		for _, dst := range []string{"127.0.0.1", "::1", p.ip4.String(), p.ip6.String(), "0.0.0.0"} {
			if _, err := p.dial(at(netip.MustParseAddr(dst), port)); !errors.Is(err, unix.EPERM) {
				t.Errorf("inside, %s port %d: %v, want EPERM", dst, port, err)
			}
		}
	}
	for _, port := range []uint16{15001, 15006, 15053, 61000, 61031, 61063} {
		for _, dst := range []netip.Addr{p.ip4, p.ip6} {
			if _, err := peer.dial(at(dst, port)); !errors.Is(err, unix.ECONNREFUSED) {
				t.Errorf("outside, %v port %d: %v, want ECONNREFUSED", dst, port, err)
			}
		}
	}
	// Nothing was captured under these ports, so nothing may come in by them.
	for _, dst := range []netip.Addr{p.ip4, p.ip6} {
		if _, err := p.dial(at(dst, 61000)); !errors.Is(err, unix.ECONNREFUSED) {
			t.Errorf("inside, %v port 61000: %v, want ECONNREFUSED", dst, err)
		}
	}
	noConnection(t, p.out)
	noConnection(t, p.plain)
	noConnection(t, p.hbone)
	if got := n.stat(reason.NoOriginalDestination); got < 2 {
		t.Errorf("counted %d connections without an original destination", got)
	}
	if got := n.stat(reason.ReservedPort); got < 32 {
		t.Errorf("counted %d refusals", got)
	}
}

func TestInbound(t *testing.T) {
	n := newNode(t)
	p, peer := n.newPod().capture(), n.newPod()
	app := p.listen("[::]:80")
	for _, dst := range []netip.Addr{p.ip4, p.ip6} {
		for port, l := range map[uint16]net.Listener{80: p.plain, 4711: p.plain, 15008: p.hbone} {
			fd, err := peer.dial(at(dst, port))
			must(t, err)
			c := accept(t, l)
			if got := unmap(c.LocalAddr().(*net.TCPAddr).AddrPort()); got != at(dst, port) {
				t.Errorf("to %v port %d: ztunnel's own address is %v", dst, port, got)
			}
			if got := unmap(c.RemoteAddr().(*net.TCPAddr).AddrPort()); got != sockName(t, fd) {
				t.Errorf("to %v port %d: ztunnel's peer is %v, want %v", dst, port, got, sockName(t, fd))
			}
			if _, err := originalDestination(c); !errors.Is(err, unix.ENOPROTOOPT) {
				t.Errorf("an inbound socket has an original destination: %v", err)
			}
		}
	}
	noConnection(t, app)
}

// TestOriginalDestinations re-uses few source ports for many connections to many places: each must keep its own.
func TestOriginalDestinations(t *testing.T) {
	n := newNode(t)
	p := n.newPod().capture()
	p.sysctl("net/ipv4/ip_local_port_range", "40000 40063")
	const workers, each = 8, 500
	go func() { // ztunnel, telling each application what it learnt
		for {
			c, err := p.out.Accept()
			if err != nil {
				return
			}
			dst, err := originalDestination(c.(*net.TCPConn))
			fmt.Fprintf(c, "%v %v", dst, err)
			go func() {
				c.Read(make([]byte, 1)) // until the application resets it
				c.Close()
			}()
		}
	}()
	var wg sync.WaitGroup
	for w := range workers {
		wg.Go(func() {
			buf := make([]byte, 128)
			for i := range each {
				dst := at(netip.AddrFrom4([4]byte{198, 51, byte(w), byte(i)}), uint16(1+i))
				fd := p.quickSocket(unix.AF_INET)
				unix.SetsockoptLinger(fd, unix.SOL_SOCKET, unix.SO_LINGER, &unix.Linger{Onoff: 1}) // no TIME_WAIT
				err := unix.Connect(fd, sockaddr(unix.AF_INET, dst))
				var got int
				if err == nil {
					got, err = unix.Read(fd, buf)
				}
				unix.Close(fd)
				if want := fmt.Sprintf("%v <nil>", dst); err != nil || string(buf[:max(got, 0)]) != want {
					t.Errorf("got %q, %v, want %q", buf[:max(got, 0)], err, want)
					return
				}
			}
		})
	}
	wg.Wait()
	// Nothing stays behind for the next user of a source port.
	var id uint32
	must(t, n.d.maps[mapOrigDst].Lookup(p.cookie, &id))
	inner := must1(ebpf.NewMapFromID(ebpf.MapID(id)))(t)
	defer inner.Close()
	var k sockopsFlow
	if err := inner.NextKey(nil, &k); !errors.Is(err, ebpf.ErrKeyNotExist) {
		t.Errorf("an original destination is left behind for %v: %v", k, err)
	}
}

// TestBusyPod: connections in flight are kept per pod, so that a busy one can evict only its own.
func TestBusyPod(t *testing.T) {
	n := newNode(t)
	busy, quiet := n.newPod().capture(), n.newPod().capture()
	inflight := func(p *pod) *ebpf.Map {
		var id uint32
		must(t, n.d.maps[mapOrigDst].Lookup(p.cookie, &id))
		m := must1(ebpf.NewMapFromID(ebpf.MapID(id)))(t)
		t.Cleanup(func() { m.Close() })
		return m
	}
	k := sockopsFlow{Src: addrFrom(quiet.ip4), SrcPort: 1234, DstPort: 61000}
	var v sockopsSockEndpoint
	must(t, inflight(quiet).Put(&k, &v))
	m := inflight(busy)
	for i := range 10_000 {
		must(t, m.Put(&sockopsFlow{Src: addrFrom(busy.ip4), SrcPort: uint16(i), DstPort: 61000}, &v))
	}
	if err := inflight(quiet).Lookup(&k, &v); err != nil {
		t.Errorf("the quiet pod's entry: %v", err)
	}
	must1(busy.dial(outside4))(t)
	accept(t, busy.out)
}

// TestUDPIsLeftAlone: the mesh carries TCP.
func TestUDPIsLeftAlone(t *testing.T) {
	n := newNode(t)
	p := n.newPod().capture()
	for _, dst := range []netip.AddrPort{outside4, outside6} {
		fd := p.socket(familyOf(dst.Addr()), unix.SOCK_DGRAM, 0)
		must(t, unix.Connect(fd, sockaddr(familyOf(dst.Addr()), dst)))
		if got := peerName(t, fd); got != dst {
			t.Errorf("peer is %v, want %v", got, dst)
		}
	}
	if got := n.stat(reason.CapturedOutbound); got != 0 {
		t.Errorf("%d were captured", got)
	}
}

// TestIPv4OnlyListeners: on hosts without IPv6 the broker listens on AF_INET. IPv6, should there be any, is refused.
func TestIPv4OnlyListeners(t *testing.T) {
	n := newNode(t)
	p := n.newPod().capture()
	p.out.Close()
	p.out = p.listen("0.0.0.0:15001")
	must(t, n.d.SetListener(p.cookie, ListenerOutbound, fdOf(t, p.out)))
	fd := must1(p.dial(outside4))(t)
	if got := must1(originalDestination(accept(t, p.out)))(t); got != outside4 {
		t.Errorf("original destination is %v", got)
	}
	if got := peerName(t, fd); got != outside4 {
		t.Errorf("peer is %v", got)
	}
	if _, err := p.dial(outside6); !errors.Is(err, unix.ECONNREFUSED) {
		t.Errorf("IPv6: %v, want ECONNREFUSED", err)
	}
}

// TestReconnectedSocket: what one connection left on a socket must not show on the next.
func TestReconnectedSocket(t *testing.T) {
	n := newNode(t)
	p, peer := n.newPod().capture(), n.newPod()
	app, far := p.listen("[::]:80"), peer.listen("[::]:80")
	fd := p.socket(unix.AF_INET, unix.SOCK_STREAM, 0)
	again := func(dst netip.AddrPort) {
		t.Helper()
		raw := unix.RawSockaddrInet4{Family: unix.AF_UNSPEC}
		_, _, errno := unix.Syscall(unix.SYS_CONNECT, uintptr(fd), uintptr(unsafe.Pointer(&raw)), unix.SizeofSockaddrInet4)
		if errno != 0 {
			t.Fatal("disconnect: ", errno)
		}
		must(t, dial(fd, dst, answerTime))
		if got := peerName(t, fd); got != dst {
			t.Errorf("peer is %v, want %v", got, dst)
		}
	}
	must(t, dial(fd, outside4, answerTime))
	accept(t, p.out)
	again(at(netip.MustParseAddr("192.0.2.8"), 81))
	if got := must1(originalDestination(accept(t, p.out)))(t); got != at(netip.MustParseAddr("192.0.2.8"), 81) {
		t.Errorf("original destination is %v", got)
	}
	again(at(p.ip4, 80))
	accept(t, app)
	again(outside4)
	accept(t, p.out)
	must(t, n.d.KeepHBONE(p.cookie))
	again(at(peer.ip4, 80)) // past the programs: only the stored port tells that the entry is old
	accept(t, far)
}

func TestLeavingTheMesh(t *testing.T) {
	n := newNode(t)
	p, peer := n.newPod().capture(), n.newPod()
	app, far := p.listen("[::]:80"), peer.listen("[::]:80")
	fd := must1(p.dial(at(peer.ip4, 80)))(t)
	c := accept(t, p.out)

	must(t, n.d.KeepHBONE(p.cookie))
	must1(p.dial(at(peer.ip4, 80)))(t)
	accept(t, far)
	must1(peer.dial(at(p.ip4, 80)))(t)
	accept(t, app)
	steered := n.stat(reason.CapturedHBONE)
	must1(peer.dial(at(p.ip4, 15008)))(t)
	accept(t, p.hbone)
	if n.stat(reason.CapturedHBONE) == steered {
		t.Error("while draining, port 15008 is not steered")
	}
	client := at(peer.ip4, 4711)
	if got := deliver(t, p, app, unix.AF_INET6, map4(at(p.ip4, 80)), client); got != client {
		t.Errorf("while draining, the application sees %v, want %v", got, client)
	}

	must(t, n.d.Disable(p.cookie))
	if _, err := peer.dial(at(p.ip4, 15008)); err == nil {
		// ztunnel's listener is still bound; it is the broker's to close.
		accept(t, p.hbone)
	}
	must(t, n.d.DetachPod(p.cookie))
	must(t, n.d.DetachPod(p.cookie))
	// What was captured lives on and keeps its names.
	must1(c.Write([]byte("ping")))(t)
	must1(unix.Read(fd, make([]byte, 4)))(t)
	if got := peerName(t, fd); got != at(peer.ip4, 80) {
		t.Errorf("the captured connection's peer is now %v", got)
	}
}

func TestNoListenerFailsClosed(t *testing.T) {
	n := newNode(t)
	p, peer := n.newPod().capture(), n.newPod()
	app := p.listen("[::]:80")
	p.out.Close()
	p.plain.Close()
	p.hbone.Close()
	if _, err := p.dial(outside4); !errors.Is(err, unix.ECONNREFUSED) {
		t.Errorf("outbound: %v, want ECONNREFUSED", err)
	}
	for _, port := range []uint16{80, 15008} {
		if _, err := peer.dial(at(p.ip4, port)); err == nil {
			t.Errorf("inbound to port %d went through", port)
		}
	}
	noConnection(t, app)
	if n.stat(reason.NoListener) < 3 {
		t.Errorf("counted %d times", n.stat(reason.NoListener))
	}
	l := p.listen("[::]:15001")
	must(t, n.d.SetListener(p.cookie, ListenerOutbound, fdOf(t, l)))
	must1(p.dial(outside4))(t)
	accept(t, l)
}

func TestNoAddressOfTheFamily(t *testing.T) {
	n := newNode(t)
	p := n.newPod()
	p.ip6 = netip.Addr{}
	p.capture()
	if _, err := p.dial(outside6); !errors.Is(err, unix.EPERM) {
		t.Errorf("IPv6 from a pod known by IPv4 only: %v, want EPERM", err)
	}
	if n.stat(reason.NoPodAddress) == 0 {
		t.Error("not counted")
	}
}

// TestMPTCPListener: Go's net.Listen makes MPTCP sockets, which a sockmap refuses.
func TestMPTCPListener(t *testing.T) {
	n := newNode(t)
	p := n.newPod()
	p.attach()
	fd := p.socket(unix.AF_INET6, unix.SOCK_STREAM, unix.IPPROTO_MPTCP)
	must(t, unix.Bind(fd, &unix.SockaddrInet6{Port: 4711}))
	must(t, unix.Listen(fd, 1))
	if err := n.d.SetListener(p.cookie, ListenerPlaintext, fd); !errors.Is(err, unix.EOPNOTSUPP) {
		t.Errorf("set an MPTCP listener: %v, want EOPNOTSUPP", err)
	}
}
