// SPDX-License-Identifier: Apache-2.0

package packets

import (
	"encoding/binary"
	"net"
	"net/netip"

	"golang.org/x/sys/unix"
)

// Packets that no TCP of the kernel would send.

// Flags of a TCP header.
const SYN, ACK = 0x02, 0x10

const tcpLength = 20

// TCP is a TCP header with a checksum; its sequence number is the tag by which it is found on the wire.
func TCP(from, to netip.AddrPort, flags byte, tag [4]byte) []byte {
	b := make([]byte, tcpLength)
	binary.BigEndian.PutUint16(b, from.Port())
	binary.BigEndian.PutUint16(b[2:], to.Port())
	copy(b[4:], tag[:])
	b[12], b[13] = tcpLength/4<<4, flags
	binary.BigEndian.PutUint16(b[14:], 0xffff)
	pseudo := append(from.Addr().AsSlice(), to.Addr().AsSlice()...)
	pseudo = append(pseudo, 0, unix.IPPROTO_TCP, 0, tcpLength)
	binary.BigEndian.PutUint16(b[16:], checksum(append(pseudo, b...)))
	return b
}

func checksum(b []byte) uint16 {
	sum := uint32(0)
	for i, v := range b {
		sum += uint32(v) << (8 * (1 - i%2))
	}
	for sum > 0xffff {
		sum = sum>>16 + sum&0xffff
	}
	return ^uint16(sum)
}

// IPv4 is an IPv4 packet; fragment is the field of flags and offset.
func IPv4(from, to netip.Addr, fragment uint16, payload []byte) []byte {
	b := make([]byte, 20, 20+len(payload))
	b[0], b[8], b[9] = 0x45, 64, unix.IPPROTO_TCP
	binary.BigEndian.PutUint16(b[2:], uint16(20+len(payload)))
	binary.BigEndian.PutUint16(b[4:], 0x1f1f)
	binary.BigEndian.PutUint16(b[6:], fragment)
	copy(b[12:], from.AsSlice())
	copy(b[16:], to.AsSlice())
	binary.BigEndian.PutUint16(b[10:], checksum(b))
	return append(b, payload...)
}

// IPv6 is an IPv6 packet whose payload begins with the header that next names.
func IPv6(from, to netip.Addr, next byte, payload []byte) []byte {
	b := make([]byte, 40, 40+len(payload))
	b[0], b[6], b[7] = 0x60, next, 64
	binary.BigEndian.PutUint16(b[4:], uint16(len(payload)))
	copy(b[8:], from.AsSlice())
	copy(b[24:], to.AsSlice())
	return append(b, payload...)
}

// DestinationOptions is an IPv6 extension header of 8 bytes before whatever next names.
func DestinationOptions(next byte, payload []byte) []byte {
	return append([]byte{next, 0, 1, 4, 0, 0, 0, 0}, payload...)
}

// Fragment6 is an IPv6 fragment; offset counts 8 bytes.
func Fragment6(next byte, offset uint16, more bool, payload []byte) []byte {
	field := offset << 3
	if more {
		field |= 1
	}
	b := []byte{next, 0, 0, 0, 0, 0, 0x1f, 0x1f}
	binary.BigEndian.PutUint16(b[2:], field)
	return append(b, payload...)
}

// Ethernet puts an Ethernet header before a packet, with VLAN tag 7 if wanted.
func Ethernet(destination, source net.HardwareAddr, packet []byte, tagged bool) []byte {
	b := append(append([]byte{}, destination...), source...)
	if tagged {
		b = append(b, 0x81, 0x00, 0, VLAN)
	}
	kind := uint16(unix.ETH_P_IP)
	if packet[0]>>4 == 6 {
		kind = unix.ETH_P_IPV6
	}
	return append(binary.BigEndian.AppendUint16(b, kind), packet...)
}

// VLAN is the tag of tagged frames.
const VLAN = 7
