// SPDX-License-Identifier: Apache-2.0

package bpf

import (
	"encoding/binary"
	"net/netip"
)

// Frames for the guard, built by hand so that each field can be wrong.

const (
	etherIPv4, etherIPv6 = 0x0800, 0x86dd
	etherVLAN, etherQinQ = 0x8100, 0x88a8
	flagFIN, flagSYN     = 0x01, 0x02
	flagRST, flagACK     = 0x04, 0x10
)

// marker is the sequence and acknowledgement number of every TCP header made here.
const marker = "WRWR"

// ether puts an Ethernet header, with any VLAN tags, before a packet.
func ether(proto uint16, packet []byte, tags ...uint16) []byte {
	b := make([]byte, 12, 64+len(packet))
	for i, tag := range tags {
		b = binary.BigEndian.AppendUint16(b, tag)
		b = binary.BigEndian.AppendUint16(b, uint16(i+1))
	}
	b = binary.BigEndian.AppendUint16(b, proto)
	return append(b, packet...)
}

// tcpHeader is 20 bytes with a valid checksum for the addresses.
func tcpHeader(src, dst netip.AddrPort, flags byte) []byte {
	b := make([]byte, 20)
	binary.BigEndian.PutUint16(b, src.Port())
	binary.BigEndian.PutUint16(b[2:], dst.Port())
	copy(b[4:], marker)
	copy(b[8:], marker)
	b[12], b[13] = 5<<4, flags
	binary.BigEndian.PutUint16(b[14:], 65535)
	pseudo := append(src.Addr().AsSlice(), dst.Addr().AsSlice()...)
	pseudo = append(pseudo, 0, 6, 0, byte(len(b)))
	binary.BigEndian.PutUint16(b[16:], checksum(append(pseudo, b...)))
	return b
}

// ipv4 wraps a payload; frag is the raw fragment field.
func ipv4(src, dst netip.Addr, proto byte, frag uint16, options, payload []byte) []byte {
	n := 20 + len(options)
	b := make([]byte, 20, n+len(payload))
	b[0], b[8], b[9] = 4<<4|byte(n/4), 64, proto
	binary.BigEndian.PutUint16(b[2:], uint16(n+len(payload)))
	binary.BigEndian.PutUint16(b[4:], 0x5752)
	binary.BigEndian.PutUint16(b[6:], frag)
	copy(b[12:], src.AsSlice())
	copy(b[16:], dst.AsSlice())
	b = append(b, options...)
	binary.BigEndian.PutUint16(b[10:], checksum(b))
	return append(b, payload...)
}

// ipv6 wraps a payload, which begins with the header that next names.
func ipv6(src, dst netip.Addr, next byte, payload ...[]byte) []byte {
	b := make([]byte, 40)
	b[0], b[6], b[7] = 6<<4, next, 64
	copy(b[8:], src.AsSlice())
	copy(b[24:], dst.AsSlice())
	for _, p := range payload {
		b = append(b, p...)
	}
	binary.BigEndian.PutUint16(b[4:], uint16(len(b)-40))
	return b
}

// extension is a hop-by-hop, routing or destination header of 8*(1+units) bytes, padded.
func extension(next byte, units int) []byte {
	b := make([]byte, 8*(1+units))
	b[0], b[1] = next, byte(units)
	b[2], b[3] = 1, byte(len(b)-4) // PadN
	return b
}

// fragment6 is a fragment header; offset in units of 8.
func fragment6(next byte, offset uint16, more bool) []byte {
	b := []byte{next, 0, 0, 0, 0, 0, 0x57, 0x52}
	binary.BigEndian.PutUint16(b[2:], offset<<3)
	if more {
		b[3] |= 1
	}
	return b
}

func checksum(b []byte) uint16 {
	var sum uint32
	for i := 0; i+1 < len(b); i += 2 {
		sum += uint32(binary.BigEndian.Uint16(b[i:]))
	}
	if len(b)%2 == 1 {
		sum += uint32(b[len(b)-1]) << 8
	}
	for sum > 0xffff {
		sum = sum>>16 + sum&0xffff
	}
	return ^uint16(sum)
}
