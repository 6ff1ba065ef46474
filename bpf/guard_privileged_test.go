// SPDX-License-Identifier: Apache-2.0

package bpf

import (
	"bytes"
	"errors"
	"net"
	"net/netip"
	"os"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/warren-mesh/warren/mesh/reason"
	"github.com/warren-mesh/warren/tests/testutil"
)

const etherAll = 0x0300 // ETH_P_ALL in network order

// sniffer is a packet socket on a pod's eth0.
func (p *pod) sniffer() int {
	p.t.Helper()
	fd := p.socket(unix.AF_PACKET, unix.SOCK_RAW, etherAll)
	must(p.t, unix.Bind(fd, &unix.SockaddrLinklayer{Protocol: etherAll, Ifindex: p.eth0().Attrs().Index}))
	must(p.t, unix.SetsockoptTimeval(fd, unix.SOL_SOCKET, unix.SO_RCVTIMEO, &unix.Timeval{Usec: 100_000}))
	return fd
}

// sniffed says whether a frame with the marker comes within 100 ms.
func sniffed(t *testing.T, fd int) bool {
	t.Helper()
	buf := make([]byte, 2048)
	for end := time.Now().Add(100 * time.Millisecond); time.Now().Before(end); {
		n, err := unix.Read(fd, buf)
		if errors.Is(err, unix.EINTR) {
			continue // Go's own signals; with a time limit the kernel does not restart the read
		}
		if errors.Is(err, unix.EAGAIN) {
			return false
		}
		must(t, err)
		if bytes.Contains(buf[:n], []byte(marker)) {
			return true
		}
	}
	return false
}

func (p *pod) eth0() netlink.Link {
	p.t.Helper()
	return must1(p.ns.netlink(p.t).LinkByName("eth0"))(p.t)
}

// inject sends a frame to the other pod by a packet socket that goes round the pod's own qdiscs and egress programs.
func (p *pod) inject(to *pod, frame []byte) error {
	p.t.Helper()
	fd := p.socket(unix.AF_PACKET, unix.SOCK_RAW, etherAll)
	must(p.t, unix.SetsockoptInt(fd, unix.SOL_PACKET, unix.PACKET_QDISC_BYPASS, 1))
	copy(frame, to.eth0().Attrs().HardwareAddr)
	copy(frame[6:], p.eth0().Attrs().HardwareAddr)
	return unix.Sendto(fd, frame, 0, &unix.SockaddrLinklayer{Ifindex: p.eth0().Attrs().Index, Halen: 6})
}

// TestGuard sends SYNs round the connect hooks: each arrives before capture, and none after.
func TestGuard(t *testing.T) {
	n := newNode(t)
	p, peer := n.newPod(), n.newPod()
	peer.listen("[::]:80")
	s4, d4 := at(p.ip4, 1234), at(peer.ip4, 80)
	s6, d6 := at(p.ip6, 1234), at(peer.ip6, 80)
	syn4, syn6 := tcpHeader(s4, d4, flagSYN), tcpHeader(s6, d6, flagSYN)
	whole4 := ipv4(p.ip4, peer.ip4, 6, 0, nil, syn4)
	whole6 := ipv6(p.ip6, peer.ip6, 6, syn6)
	raw := func(family int, packet []byte, dst netip.Addr) func() error {
		return func() error {
			fd := p.socket(family, unix.SOCK_RAW, unix.IPPROTO_RAW)
			must(t, unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_MARK, 0x539))
			return unix.Sendto(fd, packet, 0, sockaddr(family, at(dst, 0)))
		}
	}
	frame := func(proto uint16, packet []byte, tags ...uint16) func() error {
		return func() error { return p.inject(peer, ether(proto, packet, tags...)) }
	}
	senders := []struct {
		name string
		send func() error
		why  reason.Reason
	}{
		{"raw socket", raw(unix.AF_INET, whole4, peer.ip4), reason.GuardNotExempt},
		{"raw socket IPv6", raw(unix.AF_INET6, whole6, peer.ip6), reason.GuardNotExempt},
		{"packet socket", frame(etherIPv4, whole4), reason.GuardNotExempt},
		{"packet socket IPv6", frame(etherIPv6, whole6), reason.GuardNotExempt},
		{"VLAN", frame(etherIPv4, whole4, etherVLAN), reason.GuardNotExempt},
		{"VLAN in VLAN", frame(etherIPv6, whole6, etherQinQ, etherVLAN), reason.GuardNotExempt},
		{"first fragment", frame(etherIPv4, ipv4(p.ip4, peer.ip4, 6, 0x2000, nil, append(syn4, make([]byte, 4)...))), reason.GuardNotExempt},
		{"fragment over the flags", frame(etherIPv4, ipv4(p.ip4, peer.ip4, 6, 1, nil, syn4[8:])), reason.GuardUnparsable},
		{"IPv6 extension headers", frame(etherIPv6, ipv6(p.ip6, peer.ip6, 0, extension(60, 0), extension(6, 1), syn6)), reason.GuardNotExempt},
		{"IPv6 first fragment", frame(etherIPv6, ipv6(p.ip6, peer.ip6, 44, fragment6(6, 0, true), syn6, make([]byte, 4))), reason.GuardNotExempt},
		{"IPv6 fragment over the flags", frame(etherIPv6, ipv6(p.ip6, peer.ip6, 44, fragment6(6, 1, false), syn6[8:])), reason.GuardUnparsable},
	}
	sniff := peer.sniffer()
	for _, s := range senders {
		must(t, s.send())
		if !sniffed(t, sniff) {
			t.Errorf("%s: does not arrive before capture, so the test shows nothing", s.name)
		}
	}
	p.capture()
	for _, s := range senders {
		before := n.stat(s.why)
		must(t, s.send())
		if sniffed(t, sniff) {
			t.Errorf("%s: went past the guard", s.name)
		}
		if n.stat(s.why) == before {
			t.Errorf("%s: not counted as %v", s.name, s.why)
		}
	}
	// What isn't a new connection passes.
	must(t, p.inject(peer, ether(etherIPv4, ipv4(p.ip4, peer.ip4, 6, 0, nil, tcpHeader(s4, d4, flagACK)))))
	if !sniffed(t, sniff) {
		t.Error("an ACK was dropped")
	}
}

// TestGuardStopsForeignSockets: a socket from outside the cgroup is not seen by connect; uid 0 and a mark don't help.
func TestGuardStopsForeignSockets(t *testing.T) {
	n := newNode(t)
	p, peer := n.newPod().capture(), n.newPod()
	far := peer.listen("[::]:80")
	enterCgroup(t, cgroup2Root(t))
	fd := p.socket(unix.AF_INET, unix.SOCK_STREAM, 0)
	enterCgroup(t, n.cgroup)
	must(t, unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_MARK, 0x539))
	if err := dial(fd, at(peer.ip4, 80), silence); !errors.Is(err, os.ErrDeadlineExceeded) {
		t.Errorf("dial: %v, want no answer", err)
	}
	noConnection(t, far)
	if n.stat(reason.GuardNotExempt) == 0 {
		t.Error("not counted")
	}
	must(t, n.d.SetExceptions([]netip.Prefix{netip.PrefixFrom(peer.ip4, 32)}))
	accept(t, far) // its SYN is repeated, and now excepted
}

// TestGuardNestedNamespace: a namespace inside the pod, as containers in containers have, has another cookie. What it
// sends through the pod is stopped all the same.
func TestGuardNestedNamespace(t *testing.T) {
	n := newNode(t)
	p, peer := n.newPod(), n.newPod()
	inner := &pod{t: t, node: n, ns: newNetns(t)}
	h, ph := inner.ns.netlink(t), p.ns.netlink(t)
	must(t, ph.LinkAdd(&netlink.Veth{
		LinkAttrs: netlink.LinkAttrs{Name: "inner"}, PeerName: "eth0", PeerNamespace: netlink.NsFd(int(inner.ns)),
	}))
	addAddr(t, ph, must1(ph.LinkByName("inner"))(t), netip.MustParsePrefix("10.10.0.1/24"))
	addAddr(t, h, inner.eth0(), netip.MustParsePrefix("10.10.0.2/24"))
	waitUp(t, h, "eth0")
	waitUp(t, ph, "inner")
	must(t, h.RouteAdd(&netlink.Route{Gw: net.IPv4(10, 10, 0, 1)}))
	p.sysctl("net/ipv4/ip_forward", "1")

	src, dst := at(netip.MustParseAddr("10.10.0.2"), 1234), at(peer.ip4, 80)
	send := func() {
		fd := inner.socket(unix.AF_INET, unix.SOCK_RAW, unix.IPPROTO_RAW)
		must(t, unix.Sendto(fd, ipv4(src.Addr(), dst.Addr(), 6, 0, nil, tcpHeader(src, dst, flagSYN)), 0, sockaddr(unix.AF_INET, dst)))
	}
	sniff := peer.sniffer()
	send()
	if !sniffed(t, sniff) {
		t.Error("does not arrive before capture, so the test shows nothing")
	}
	p.capture()
	send()
	if sniffed(t, sniff) || n.stat(reason.GuardNotExempt) == 0 {
		t.Error("went past the guard")
	}
}

// TestGrace: a connection under way when a running pod is captured gets one retransmission, later and in a new pod none.
func TestGrace(t *testing.T) {
	n := newNode(t)
	running, late, fresh, sink := n.newPod(), n.newPod(), n.newPod(), n.newPod()
	nobody := netip.MustParseAddr("10.9.0.200")
	for _, p := range []*pod{running, late, fresh} {
		must(t, p.ns.netlink(t).NeighAdd(&netlink.Neigh{
			LinkIndex: p.eth0().Attrs().Index, State: netlink.NUD_PERMANENT,
			IP: net.IP(nobody.AsSlice()), HardwareAddr: sink.eth0().Attrs().HardwareAddr,
		}))
		p.attach()
		p.guard()
	}
	for _, p := range []*pod{running, late, fresh} {
		fd := p.socket(unix.AF_INET, unix.SOCK_STREAM, 0)
		if err := dial(fd, at(nobody, 80), 0); !errors.Is(err, os.ErrDeadlineExceeded) {
			t.Fatal(err)
		}
		spec := p.spec()
		spec.Running = p != fresh
		must(t, n.d.Enable(spec))
	}
	var v sockopsPod
	must(t, n.d.maps[mapPods].Lookup(late.cookie, &v))
	v.CapturedNs -= uint64(1200 * time.Millisecond)
	must(t, n.d.maps[mapPods].Put(late.cookie, &v))

	testutil.Eventually(t, 2*time.Second, "not all three SYNs were repeated and judged", func() bool {
		return n.stat(reason.GuardBeforeCapture) == 1 && n.stat(reason.GuardNotExempt) == 2
	})
	// A raw socket is no connection under way.
	syn := ipv4(running.ip4, nobody, 6, 0, nil, tcpHeader(at(running.ip4, 1), at(nobody, 80), flagSYN))
	before := n.stat(reason.GuardNotExempt)
	must(t, unix.Sendto(running.socket(unix.AF_INET, unix.SOCK_RAW, unix.IPPROTO_RAW), syn, 0, sockaddr(unix.AF_INET, at(nobody, 0))))
	if n.stat(reason.GuardNotExempt) == before {
		t.Error("a raw SYN was let through in the time of grace")
	}
}
