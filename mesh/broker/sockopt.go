// SPDX-License-Identifier: Apache-2.0

package broker

import (
	"encoding/binary"
	"fmt"
	"net/netip"
)

// Socket options that the kernel programs of bpf/sockopt.c answer, only on sockets the broker made (for
// OptOriginalDestination: accepted from one). Elsewhere the kernel says ENOPROTOOPT.
const (
	SockoptLevel           = 0x5752
	OptOriginalDestination = 1 // getsockopt on an accepted outbound socket: where the application wanted to go
	OptClientAddress       = 2 // setsockopt on a dial socket before connect: the peer shown to the application
)

// SockoptSize is the length in bytes of both options' value.
const SockoptSize = 20

// EncodeAddrPort makes the value of an option, laid out as struct sock_endpoint of the kernel programs:
// address (IPv4 as v4-mapped) and port in network order, then two zero bytes.
func EncodeAddrPort(a netip.AddrPort) [SockoptSize]byte {
	var b [SockoptSize]byte
	ip := a.Addr().As16()
	copy(b[:16], ip[:])
	binary.BigEndian.PutUint16(b[16:18], a.Port())
	return b
}

// DecodeAddrPort reads the value of an option. IPv4 comes back unmapped. It fails on another length than
// SockoptSize and on port 0, which no connection has.
func DecodeAddrPort(b []byte) (netip.AddrPort, error) {
	if len(b) != SockoptSize {
		return netip.AddrPort{}, fmt.Errorf("decode socket endpoint: %d bytes, want %d", len(b), SockoptSize)
	}
	port := binary.BigEndian.Uint16(b[16:18])
	if port == 0 {
		return netip.AddrPort{}, fmt.Errorf("decode socket endpoint: no port (nothing was stored for the socket)")
	}
	return netip.AddrPortFrom(netip.AddrFrom16([16]byte(b[:16])).Unmap(), port), nil
}
