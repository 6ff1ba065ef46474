// SPDX-License-Identifier: Apache-2.0

package bpf

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/warren-mesh/warren/mesh/reason"
)

// deliver connects as ztunnel does for a client, and returns whom the application sees.
func deliver(t *testing.T, p *pod, app net.Listener, family int, dst, client netip.AddrPort) netip.AddrPort {
	t.Helper()
	fd := p.broker(family)
	must(t, setClient(fd, client))
	must(t, dial(fd, dst, answerTime))
	c := accept(t, app)
	seen := unmap(c.RemoteAddr().(*net.TCPAddr).AddrPort()) // accept's own answer
	rc := must1(c.SyscallConn())(t)
	must(t, rc.Control(func(fd uintptr) {
		if got := unmap(peerName(t, int(fd))); got != seen {
			t.Errorf("getpeername says %v, accept said %v", got, seen)
		}
	}))
	if got := unmap(peerName(t, fd)); got != unmap(dst) {
		t.Errorf("ztunnel's own peer is %v, want %v", got, dst)
	}
	return seen
}

func TestClientAddress(t *testing.T) {
	n := newNode(t)
	p := n.newPod().capture()
	dual, only4 := p.listen("[::]:80"), p.listen("0.0.0.0:81")
	client4, client6 := netip.MustParseAddrPort("10.1.2.3:4567"), netip.MustParseAddrPort("[fd01::3]:4568")
	tests := []struct {
		name   string
		app    net.Listener
		family int
		dst    netip.AddrPort
		client netip.AddrPort
	}{
		{"IPv4 to a dual-stack application", dual, unix.AF_INET, at(p.ip4, 80), client4},
		{"v4-mapped to a dual-stack application", dual, unix.AF_INET6, map4(at(p.ip4, 80)), client4},
		{"IPv6", dual, unix.AF_INET6, at(p.ip6, 80), client6},
		{"IPv4 to an IPv4 application", only4, unix.AF_INET, at(p.ip4, 81), client4},
		{"v4-mapped to an IPv4 application", only4, unix.AF_INET6, map4(at(p.ip4, 81)), client4},
		{"IPv6 client to a dual-stack application by IPv4", dual, unix.AF_INET6, map4(at(p.ip4, 80)), client6},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			if got := deliver(t, p, tt.app, tt.family, tt.dst, tt.client); got != tt.client {
				t.Errorf("the application sees %v, want %v", got, tt.client)
			}
		})
	}
	noConnection(t, p.plain)
}

// TestMPTCPApplication: what Go applications listen with, unless told otherwise.
func TestMPTCPApplication(t *testing.T) {
	n := newNode(t)
	p := n.newPod().capture()
	fd := p.socket(unix.AF_INET6, unix.SOCK_STREAM, unix.IPPROTO_MPTCP)
	must(t, unix.Bind(fd, &unix.SockaddrInet6{Port: 80}))
	must(t, unix.Listen(fd, 1))
	client := netip.MustParseAddrPort("10.1.2.3:4567")
	z := p.broker(unix.AF_INET6)
	must(t, setClient(z, client))
	must(t, dial(z, map4(at(p.ip4, 80)), answerTime))
	c, sa, err := unix.Accept4(fd, unix.SOCK_CLOEXEC)
	got := addrPort(t, sa, err)
	defer unix.Close(c)
	if unmap(got) != client {
		t.Errorf("accept says %v, want %v", got, client)
	}
	if got := peerName(t, c); unmap(got) != client {
		t.Errorf("getpeername says %v, want %v", got, client)
	}
}

// TestManyDeliveries needs more connections to one port than one source address has ports for, all of them left in
// TIME_WAIT. IPv4 only: IPv6 has no range of loopback addresses.
func TestManyDeliveries(t *testing.T) {
	n := newNode(t)
	p := n.newPod().capture()
	p.sysctl("net/ipv4/ip_local_port_range", "40000 40127")
	app := p.listen("[::]:80")
	go func() {
		for {
			c, err := app.Accept()
			if err != nil {
				return
			}
			fmt.Fprint(c, c.RemoteAddr().(*net.TCPAddr).AddrPort())
			c.Read(make([]byte, 1))
			c.Close()
		}
	}()
	for i := range 2000 {
		family, dst := unix.AF_INET, at(p.ip4, 80)
		if i%2 == 0 {
			family, dst = unix.AF_INET6, map4(dst)
		}
		client := at(netip.AddrFrom4([4]byte{10, 1, byte(i >> 8), byte(i)}), uint16(1000+i))
		fd := p.quickSocket(family)
		must(t, n.d.Exempt(fd))
		must(t, setClient(fd, client))
		if err := unix.Connect(fd, sockaddr(family, dst)); err != nil {
			t.Fatalf("connection %d: %v", i, err)
		}
		buf := make([]byte, 64)
		got := must1(unix.Read(fd, buf))(t)
		if seen := unmap(netip.MustParseAddrPort(string(buf[:got]))); seen != client {
			t.Fatalf("connection %d: the application sees %v, want %v", i, seen, client)
		}
		unix.Close(fd) // first, so that TIME_WAIT is here
	}
}

// TestExemptRefusals: what a ztunnel that was taken over must not reach with the sockets it is given, those of a pod
// that is not captured any more and its own included.
func TestExemptRefusals(t *testing.T) {
	n := newNode(t)
	p, peer := n.newPod().capture(), n.newPod()
	p.listen("[::]:80")
	var tests []netip.AddrPort
	for _, a := range []string{"127.0.0.1", "127.1.2.3", "::1", "::ffff:127.0.0.1", "0.0.0.0", "::",
		"169.254.169.254", "::ffff:169.254.169.254", "fe80::1"} {
		tests = append(tests, at(netip.MustParseAddr(a), 80))
	}
	for _, port := range []uint16{15001, 15006, 15053, 61000, 61063} {
		tests = append(tests, at(peer.ip4, port), at(peer.ip6, port), map4(at(peer.ip4, port)), at(p.ip4, port))
	}
	for what, from := range map[string]*pod{"captured": p, "not captured": peer} {
		for _, dst := range tests {
			before := n.stat(reason.ExemptRefused)
			if err := dial(from.broker(familyOf(dst.Addr())), dst, answerTime); !errors.Is(err, unix.EPERM) {
				t.Errorf("%s, %v: %v, want EPERM", what, dst, err)
			}
			if n.stat(reason.ExemptRefused) != before+1 {
				t.Errorf("%s, %v is not counted", what, dst)
			}
		}
	}
}

// TestExemptDials: the tunnel itself, and connections of a pod to itself, pass connect, sk_lookup and guard.
func TestExemptDials(t *testing.T) {
	n := newNode(t)
	p, peer := n.newPod().capture(), n.newPod().capture()
	far := n.newPod().listen("[::]:80")
	app := p.listen("[::]:80")
	for _, tt := range []struct {
		name string
		dst  netip.AddrPort
		at   net.Listener
	}{
		{"HBONE", at(peer.ip4, 15008), peer.hbone},
		{"HBONE IPv6", at(peer.ip6, 15008), peer.hbone},
		{"HBONE v4-mapped", map4(at(peer.ip4, 15008)), peer.hbone},
		{"HBONE to itself", at(p.ip4, 15008), p.hbone},
		{"application", at(p.ip4, 80), app},
		{"application IPv6", at(p.ip6, 80), app},
		{"outside", at(netip.MustParseAddr("10.9.0.4"), 80), far},
		{"outside IPv6", at(netip.MustParseAddr("fd09::4"), 80), far},
	} {
		t.Run(tt.name, func(t *testing.T) {
			must(t, dial(p.broker(familyOf(tt.dst.Addr())), tt.dst, answerTime))
			accept(t, tt.at)
		})
	}
	noConnection(t, p.out)
}

// TestSockopts: to sockets that are not the mesh's, the options don't exist.
func TestSockopts(t *testing.T) {
	n := newNode(t)
	p := n.newPod().capture()
	fd := must1(p.dial(outside4))(t)
	accept(t, p.out)
	if err := setClient(fd, outside4); !errors.Is(err, unix.ENOPROTOOPT) {
		t.Errorf("setsockopt on an application's socket: %v, want ENOPROTOOPT", err)
	}
	if _, err := unix.GetsockoptString(fd, 0x5752, 1); !errors.Is(err, unix.EOPNOTSUPP) {
		t.Errorf("getsockopt on an application's IPv4 socket: %v, want EOPNOTSUPP", err)
	}
	fd6 := must1(p.dial(outside6))(t)
	if _, err := unix.GetsockoptString(fd6, 0x5752, 1); !errors.Is(err, unix.ENOPROTOOPT) {
		t.Errorf("getsockopt on an application's IPv6 socket: %v, want ENOPROTOOPT", err)
	}
	z := p.broker(unix.AF_INET6)
	if err := unix.SetsockoptString(z, 0x5752, 2, "short"); err == nil {
		t.Error("a short client address was taken")
	}
	if err := unix.SetsockoptInt(z, unix.SOL_TCP, unix.TCP_NODELAY, 1); err != nil {
		t.Errorf("an ordinary option: %v", err)
	}
	// Longer than a page: kernels before 6.4 fail these unless the program leaves them alone.
	if err := unix.SetsockoptString(z, unix.SOL_TCP, unix.TCP_CONGESTION, "reno"+string(make([]byte, 8192))); err != nil {
		t.Errorf("a long option: %v", err)
	}
}

// TestRefusedDelivery leaves a client's address behind. A connection of the pod's own with the very same ports must not
// be taken for that client's.
func TestRefusedDelivery(t *testing.T) {
	n := newNode(t)
	p := n.newPod().capture()
	src, dst := at(p.ip6, 45000), at(p.ip6, 80)
	z := p.quickSocket(unix.AF_INET6)
	must(t, n.d.Exempt(z))
	must(t, setClient(z, netip.MustParseAddrPort("[fd01::3]:4568")))
	must(t, unix.Bind(z, sockaddr(unix.AF_INET6, src)))
	if err := dial(z, dst, answerTime); !errors.Is(err, unix.ECONNREFUSED) {
		t.Fatal(err)
	}
	must(t, unix.Close(z))
	app := p.listen("[::]:80")
	fd := p.socket(unix.AF_INET6, unix.SOCK_STREAM, 0)
	must(t, unix.Bind(fd, sockaddr(unix.AF_INET6, src)))
	must(t, dial(fd, dst, answerTime))
	if got := accept(t, app).RemoteAddr().(*net.TCPAddr).AddrPort(); got != src {
		t.Errorf("the application sees %v, want %v", got, src)
	}
}

// TestLoopbackOnlyApplication is refused, as it is to the network without a mesh.
func TestLoopbackOnlyApplication(t *testing.T) {
	n := newNode(t)
	p := n.newPod().capture()
	p.listen("127.0.0.1:80")
	for _, dst := range []netip.Addr{p.ip4, p.ip6} {
		if err := dial(p.broker(familyOf(dst)), at(dst, 80), answerTime); !errors.Is(err, unix.ECONNREFUSED) {
			t.Errorf("%v: %v, want ECONNREFUSED", dst, err)
		}
	}
}

// TestSocketsOutliveTheirCgroup: sockets belong to the cgroup they were made in. The broker's goes with the broker, but
// its sockets must still answer; so the programs stand further up.
func TestSocketsOutliveTheirCgroup(t *testing.T) {
	n := newNode(t)
	p := n.newPod()
	broker := filepath.Join(n.cgroup, "broker")
	must(t, os.Mkdir(broker, 0o755))
	enterCgroup(t, broker)
	p.capture()
	app := p.listen("[::]:80")
	z := p.broker(unix.AF_INET6)
	enterCgroup(t, n.cgroup)
	must(t, os.Remove(broker))

	must1(p.dial(outside4))(t)
	if got := must1(originalDestination(accept(t, p.out)))(t); got != outside4 {
		t.Errorf("original destination is %v", got)
	}
	client := netip.MustParseAddrPort("10.1.2.3:4567")
	must(t, setClient(z, client))
	must(t, dial(z, map4(at(p.ip4, 80)), answerTime))
	if got := unmap(accept(t, app).RemoteAddr().(*net.TCPAddr).AddrPort()); got != client {
		t.Errorf("the application sees %v, want %v", got, client)
	}
}
