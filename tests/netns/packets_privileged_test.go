// SPDX-License-Identifier: Apache-2.0

package netns

import (
	"bytes"
	"errors"
	"net/netip"
	"os"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/warren-mesh/warren/tests/testutil"
)

// sender sends packets from a pod past its sockets' connect.
type sender struct {
	name string
	send func(t *testing.T, from, to netip.AddrPort, tag [4]byte)
	v6   bool
	why  string // the guard's word
	vlan bool
}

// tap sees every frame on the wire between the nodes, whatever is in it.
type tap struct{ socket *os.File }

func newTap(t *testing.T, m *Mesh) tap {
	t.Helper()
	f, err := m.wire.sandbox.socket(unix.AF_PACKET, unix.SOCK_RAW, int(htons(unix.ETH_P_ALL)))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { f.Close() })
	if err := unix.SetsockoptTimeval(int(f.Fd()), unix.SOL_SOCKET, unix.SO_RCVTIMEO, &unix.Timeval{Usec: 50_000}); err != nil {
		t.Fatal(err)
	}
	return tap{f}
}

// until reads frames until the tag of one comes by, and says whether another tag did before it. Fails after 5 s.
func (w tap) until(t *testing.T, last, other []byte) (sawOther bool) {
	t.Helper()
	b := make([]byte, 1<<17)
	for end := time.Now().Add(5 * time.Second); time.Now().Before(end); {
		n, err := unix.Read(int(w.socket.Fd()), b)
		switch {
		case errors.Is(err, unix.EAGAIN), errors.Is(err, unix.EINTR):
			continue
		case err != nil:
			t.Fatal(err)
		}
		sawOther = sawOther || other != nil && bytes.Contains(b[:n], other)
		if bytes.Contains(b[:n], last) {
			return sawOther
		}
	}
	t.Fatalf("after 5 s: no frame with %q on the wire", last)
	return false
}

// senders are the ways past connect: raw sockets, and packet sockets that go round what the pod's own namespace could
// attach to its device.
func senders(t *testing.T, p *Pod) []sender {
	destination, source := p.hostEnd(t).HardwareAddr, p.eth0(t).HardwareAddr
	packet, err := p.Socket(unix.AF_PACKET, unix.SOCK_RAW, 0)
	if err != nil {
		t.Fatal(err)
	}
	if err := unix.SetsockoptInt(int(packet.Fd()), unix.SOL_PACKET, unix.PACKET_QDISC_BYPASS, 1); err != nil {
		t.Fatal(err)
	}
	device := &unix.SockaddrLinklayer{Ifindex: p.eth0(t).Index, Halen: 6}
	inject := func(t *testing.T, tagged bool, packets ...[]byte) {
		t.Helper()
		for _, ip := range packets {
			if err := unix.Sendto(int(packet.Fd()), frame(destination, source, ip, tagged), 0, device); err != nil {
				t.Fatal(err)
			}
		}
	}
	raw := func(t *testing.T, protocol int, b []byte, to netip.AddrPort) {
		t.Helper()
		family := unix.AF_INET
		if to.Addr().Is6() {
			family = unix.AF_INET6
		}
		s, err := p.Socket(family, unix.SOCK_RAW, protocol)
		if err != nil {
			t.Fatal(err)
		}
		defer s.Close()
		if err := unix.SetsockoptInt(int(s.Fd()), unix.SOL_SOCKET, unix.SO_MARK, 0x539); err != nil {
			t.Fatal(err)
		}
		if err := unix.Sendto(int(s.Fd()), b, 0, sockaddr(family, netip.AddrPortFrom(to.Addr(), 0))); err != nil {
			t.Fatal(err)
		}
	}
	whole := func(from, to netip.AddrPort, tag [4]byte) []byte {
		if syn := tcpSegment(from, to, tcpSYN, tag); to.Addr().Is4() {
			return packet4(from.Addr(), to.Addr(), 0, syn)
		} else {
			return packet6(from.Addr(), to.Addr(), unix.IPPROTO_TCP, syn)
		}
	}
	const more = 0x2000
	type ap = netip.AddrPort
	out := []sender{
		{"two fragments", func(t *testing.T, from, to ap, tag [4]byte) {
			syn := tcpSegment(from, to, tcpSYN, tag)
			inject(t, false, packet4(from.Addr(), to.Addr(), more, syn[:16]), packet4(from.Addr(), to.Addr(), 2, syn[16:]))
		}, false, "GUARD_NOT_EXEMPT", false},
		{"flags in the second fragment", func(t *testing.T, from, to ap, tag [4]byte) {
			syn := tcpSegment(from, to, tcpSYN, tag)
			inject(t, false, packet4(from.Addr(), to.Addr(), more, syn[:8]), packet4(from.Addr(), to.Addr(), 1, syn[8:]))
		}, false, "GUARD_UNPARSABLE", false},
		{"extension headers", func(t *testing.T, from, to ap, tag [4]byte) {
			syn := tcpSegment(from, to, tcpSYN, tag)
			inject(t, false, packet6(from.Addr(), to.Addr(), unix.IPPROTO_DSTOPTS, destinationOptions(unix.IPPROTO_DSTOPTS, destinationOptions(unix.IPPROTO_TCP, syn))))
		}, true, "GUARD_NOT_EXEMPT", false},
		{"two IPv6 fragments", func(t *testing.T, from, to ap, tag [4]byte) {
			syn := tcpSegment(from, to, tcpSYN, tag)
			inject(t, false, packet6(from.Addr(), to.Addr(), unix.IPPROTO_FRAGMENT, fragment6(unix.IPPROTO_TCP, 0, true, syn[:16])),
				packet6(from.Addr(), to.Addr(), unix.IPPROTO_FRAGMENT, fragment6(unix.IPPROTO_TCP, 2, false, syn[16:])))
		}, true, "GUARD_NOT_EXEMPT", false},
		{"flags in the second IPv6 fragment", func(t *testing.T, from, to ap, tag [4]byte) {
			syn := tcpSegment(from, to, tcpSYN, tag)
			inject(t, false, packet6(from.Addr(), to.Addr(), unix.IPPROTO_FRAGMENT, fragment6(unix.IPPROTO_TCP, 0, true, syn[:8])),
				packet6(from.Addr(), to.Addr(), unix.IPPROTO_FRAGMENT, fragment6(unix.IPPROTO_TCP, 1, false, syn[8:])))
		}, true, "GUARD_UNPARSABLE", false},
	}
	for _, v6 := range []bool{false, true} {
		family := map[bool]string{false: " IPv4", true: " IPv6"}[v6]
		out = append(out,
			sender{"raw TCP socket" + family, func(t *testing.T, from, to ap, tag [4]byte) {
				raw(t, unix.IPPROTO_TCP, tcpSegment(from, to, tcpSYN, tag), to)
			}, v6, "GUARD_NOT_EXEMPT", false},
			sender{"raw IP socket" + family, func(t *testing.T, from, to ap, tag [4]byte) {
				raw(t, unix.IPPROTO_RAW, whole(from, to, tag), to)
			}, v6, "GUARD_NOT_EXEMPT", false},
			sender{"packet socket" + family, func(t *testing.T, from, to ap, tag [4]byte) {
				inject(t, false, whole(from, to, tag))
			}, v6, "GUARD_NOT_EXEMPT", false},
			sender{"packet socket, SYN with every flag but ACK" + family, func(t *testing.T, from, to ap, tag [4]byte) {
				syn := tcpSegment(from, to, 0xff&^tcpACK, tag)
				if v6 {
					inject(t, false, packet6(from.Addr(), to.Addr(), unix.IPPROTO_TCP, syn))
				} else {
					inject(t, false, packet4(from.Addr(), to.Addr(), 0, syn))
				}
			}, v6, "GUARD_NOT_EXEMPT", false},
			sender{"VLAN" + family, func(t *testing.T, from, to ap, tag [4]byte) {
				inject(t, true, whole(from, to, tag))
			}, v6, "GUARD_NOT_EXEMPT", true},
		)
	}
	return out
}

// TestNoSYNLeavesByPackets sends SYNs that no connect saw, to a pod outside the mesh and to a captured one. Before the
// pod is captured each is seen on the wire; after it none is, and the guard has counted it.
func TestNoSYNLeavesByPackets(t *testing.T) {
	testutil.Privileged(t)
	m := New(t, Options{})
	m.Namespace("app", Enrolled())
	client := m.Node("a").Pod("client", In("app"), ServiceAccount("client"))
	far := m.Node("b").Pod("far", In("app"), ServiceAccount("far"))
	outside := m.Node("b").Pod("outside")
	vlans := acceptVLAN(t, client)
	wire := newTap(t, m)
	port := uint16(2000)
	tagOf := func(kind byte) ([4]byte, uint16) {
		port++
		return [4]byte{kind, 'W', byte(port >> 8), byte(port)}, port
	}
	all := senders(t, client)
	// each sends by every sender to both pods; check is told the tag to look for, and how to send what surely arrives.
	each := func(check func(t *testing.T, s sender, tag []byte, send, fence func())) {
		for _, s := range all {
			for _, to := range []*Pod{outside, far} {
				if t.Failed() {
					return // one says it, and each takes its time
				}
				t.Run(s.name+" to "+to.Name, func(t *testing.T) {
					network := map[bool]string{false: "tcp4", true: "tcp6"}[s.v6]
					tag, p := tagOf('S')
					from := client.Addr(network, p)
					check(t, s, tag[:], func() { s.send(t, from, to.Addr(network, 8080), tag) }, func() {
						last, p := tagOf('A')
						from := client.Addr(network, p)
						packet := packet4
						if s.v6 {
							packet = func(from, to netip.Addr, _ uint16, b []byte) []byte { return packet6(from, to, unix.IPPROTO_TCP, b) }
						}
						b := packet(from.Addr(), to.Addr(network, 0).Addr(), 0, tcpSegment(from, to.Addr(network, 8080), tcpACK, last))
						injectFrom(t, client, b)
						if wire.until(t, last[:], tag[:]) {
							t.Error("it was on the wire")
						}
					})
				})
			}
		}
	}
	each(func(t *testing.T, s sender, tag []byte, send, _ func()) {
		if s.vlan && !vlans {
			// A kernel without VLANs has no way out by a tag. That the guard drops the frame is shown below all the same.
			t.Log("this kernel has no VLANs, so the node takes no tagged frame, captured or not")
			return
		}
		send()
		wire.until(t, tag, nil)
	})
	if t.Failed() {
		t.Fatal("what does not arrive without the mesh proves nothing about it")
	}
	m.Up()
	each(func(t *testing.T, s sender, tag []byte, send, fence func()) {
		a := witness(t, client.Node)
		send()
		a.counted(s.why)
		fence() // no SYN: it may pass, and whatever was sent before it would have come before it
	})
}

// injectFrom sends one packet by a packet socket of the pod.
func injectFrom(t *testing.T, p *Pod, packet []byte) {
	t.Helper()
	s, err := p.Socket(unix.AF_PACKET, unix.SOCK_RAW, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	b := frame(p.hostEnd(t).HardwareAddr, p.eth0(t).HardwareAddr, packet, false)
	if err := unix.Sendto(int(s.Fd()), b, 0, &unix.SockaddrLinklayer{Ifindex: p.eth0(t).Index, Halen: 6}); err != nil {
		t.Fatal(err)
	}
}

// acceptVLAN lets the node take tagged frames of a pod and route them on, so that a tag would be a way out. False
// where the kernel can't.
func acceptVLAN(t *testing.T, p *Pod) bool {
	t.Helper()
	l, err := p.Node.sandbox.links()
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	vlan := &netlink.Vlan{LinkAttrs: netlink.LinkAttrs{Name: "tagged", ParentIndex: p.hostEnd(t).Index}, VlanId: vlanID}
	if err := l.LinkAdd(vlan); errors.Is(err, unix.EOPNOTSUPP) {
		return false
	} else if err != nil {
		t.Fatalf("make a VLAN on %s: %v", p.veth, err)
	}
	if err := l.LinkSetUp(vlan); err != nil {
		t.Fatal(err)
	}
	return true
}
