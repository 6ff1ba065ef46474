// SPDX-License-Identifier: Apache-2.0

package escape

import (
	"fmt"
	"net"
	"net/netip"
	"os"

	"golang.org/x/sys/unix"

	"github.com/warren-mesh/warren/tests/packets"
)

// Link is a pod's network interface as its sockets see it.
type Link struct {
	Socket Sockets
	Index  int
	MAC    net.HardwareAddr
	Next   net.HardwareAddr // of the next hop
}

// Sender sends SYNs from a pod past its sockets' connect.
type Sender struct {
	Name   string
	IPv6   bool
	VLAN   bool   // tagged
	Reason string // the guard's word
	// Send sends the SYN; its sequence number is the tag, by which it is found on the wire.
	Send func(l Link, from, to netip.AddrPort, tag [4]byte) error
}

// Inject sends packets by a packet socket that goes round what the pod's own namespace could attach to the interface.
func (l Link) Inject(tagged bool, ips ...[]byte) error {
	s, err := l.Socket(unix.AF_PACKET, unix.SOCK_RAW, 0)
	if err != nil {
		return err
	}
	defer s.Close()
	if err := unix.SetsockoptInt(int(s.Fd()), unix.SOL_PACKET, unix.PACKET_QDISC_BYPASS, 1); err != nil {
		return os.NewSyscallError("setsockopt PACKET_QDISC_BYPASS", err)
	}
	for _, ip := range ips {
		b := packets.Ethernet(l.Next, l.MAC, ip, tagged)
		if err := unix.Sendto(int(s.Fd()), b, 0, &unix.SockaddrLinklayer{Ifindex: l.Index, Halen: 6}); err != nil {
			return fmt.Errorf("send by a packet socket: %w", err)
		}
	}
	return nil
}

// raw sends by a raw socket, with a mark that other meshes exempt.
func (l Link) raw(protocol int, b []byte, to netip.AddrPort) error {
	family := unix.AF_INET
	if to.Addr().Is6() {
		family = unix.AF_INET6
	}
	s, err := l.Socket(family, unix.SOCK_RAW, protocol)
	if err != nil {
		return err
	}
	defer s.Close()
	if err := unix.SetsockoptInt(int(s.Fd()), unix.SOL_SOCKET, unix.SO_MARK, 0x539); err != nil {
		return os.NewSyscallError("setsockopt SO_MARK", err)
	}
	return os.NewSyscallError("sendto", unix.Sendto(int(s.Fd()), b, 0, sockaddr(family, netip.AddrPortFrom(to.Addr(), 0))))
}

// Whole is an IP packet of one TCP header with these flags.
func Whole(from, to netip.AddrPort, flags byte, tag [4]byte) []byte {
	segment := packets.TCP(from, to, flags, tag)
	if to.Addr().Is4() {
		return packets.IPv4(from.Addr(), to.Addr(), 0, segment)
	}
	return packets.IPv6(from.Addr(), to.Addr(), unix.IPPROTO_TCP, segment)
}

// Senders are the ways past connect: raw sockets, and packet sockets.
func Senders() []Sender {
	out := fragments()
	for _, v6 := range []bool{false, true} {
		family := map[bool]string{false: " IPv4", true: " IPv6"}[v6]
		out = append(out,
			Sender{"raw TCP socket" + family, v6, false, "GUARD_NOT_EXEMPT", func(l Link, from, to netip.AddrPort, tag [4]byte) error {
				return l.raw(unix.IPPROTO_TCP, packets.TCP(from, to, packets.SYN, tag), to)
			}},
			Sender{"raw IP socket" + family, v6, false, "GUARD_NOT_EXEMPT", func(l Link, from, to netip.AddrPort, tag [4]byte) error {
				return l.raw(unix.IPPROTO_RAW, Whole(from, to, packets.SYN, tag), to)
			}},
			Sender{"packet socket" + family, v6, false, "GUARD_NOT_EXEMPT", func(l Link, from, to netip.AddrPort, tag [4]byte) error {
				return l.Inject(false, Whole(from, to, packets.SYN, tag))
			}},
			Sender{"packet socket, SYN with every flag but ACK" + family, v6, false, "GUARD_NOT_EXEMPT", func(l Link, from, to netip.AddrPort, tag [4]byte) error {
				return l.Inject(false, Whole(from, to, 0xff&^packets.ACK, tag))
			}},
			Sender{"VLAN" + family, v6, true, "GUARD_NOT_EXEMPT", func(l Link, from, to netip.AddrPort, tag [4]byte) error {
				return l.Inject(true, Whole(from, to, packets.SYN, tag))
			}},
		)
	}
	return out
}

// fragments hide the flags of a SYN, or the header they stand in, from whoever reads packets one by one.
func fragments() []Sender {
	type addr = netip.AddrPort
	four := func(cut int) func(Link, addr, addr, [4]byte) error {
		const more = 0x2000
		return func(l Link, from, to addr, tag [4]byte) error {
			syn := packets.TCP(from, to, packets.SYN, tag)
			return l.Inject(false, packets.IPv4(from.Addr(), to.Addr(), more, syn[:cut]), packets.IPv4(from.Addr(), to.Addr(), uint16(cut/8), syn[cut:]))
		}
	}
	six := func(cut int) func(Link, addr, addr, [4]byte) error {
		return func(l Link, from, to addr, tag [4]byte) error {
			syn := packets.TCP(from, to, packets.SYN, tag)
			return l.Inject(false,
				packets.IPv6(from.Addr(), to.Addr(), unix.IPPROTO_FRAGMENT, packets.Fragment6(unix.IPPROTO_TCP, 0, true, syn[:cut])),
				packets.IPv6(from.Addr(), to.Addr(), unix.IPPROTO_FRAGMENT, packets.Fragment6(unix.IPPROTO_TCP, uint16(cut/8), false, syn[cut:])))
		}
	}
	extended := func(l Link, from, to addr, tag [4]byte) error {
		syn := packets.TCP(from, to, packets.SYN, tag)
		options := packets.DestinationOptions(unix.IPPROTO_DSTOPTS, packets.DestinationOptions(unix.IPPROTO_TCP, syn))
		return l.Inject(false, packets.IPv6(from.Addr(), to.Addr(), unix.IPPROTO_DSTOPTS, options))
	}
	return []Sender{
		{"two fragments", false, false, "GUARD_NOT_EXEMPT", four(16)},
		{"flags in the second fragment", false, false, "GUARD_UNPARSABLE", four(8)},
		{"extension headers", true, false, "GUARD_NOT_EXEMPT", extended},
		{"two IPv6 fragments", true, false, "GUARD_NOT_EXEMPT", six(16)},
		{"flags in the second IPv6 fragment", true, false, "GUARD_UNPARSABLE", six(8)},
	}
}
