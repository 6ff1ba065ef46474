// SPDX-License-Identifier: Apache-2.0

package bpf

import (
	"encoding/binary"
	"fmt"
	"net/netip"
)

// addrFrom writes an address as the programs keep it: 16 bytes in network order, IPv4 mapped, zero for none.
func addrFrom(a netip.Addr) (out sockopsAddr) {
	if !a.IsValid() {
		return out
	}
	b := a.As16()
	for i := range out.W {
		out.W[i] = binary.NativeEndian.Uint32(b[4*i:])
	}
	return out
}

func addrTo(in sockopsAddr) netip.Addr {
	if in == (sockopsAddr{}) {
		return netip.Addr{}
	}
	var b [16]byte
	for i, w := range in.W {
		binary.NativeEndian.PutUint32(b[4*i:], w)
	}
	return netip.AddrFrom16(b).Unmap()
}

// exceptionFrom writes a prefix as a key of the exceptions trie. An IPv6 prefix that spans the v4-mapped
// addresses would silently except all of IPv4, so it is refused.
func exceptionFrom(p netip.Prefix) (sockopsException, error) {
	if !p.IsValid() {
		return sockopsException{}, fmt.Errorf("except %v: not a prefix", p)
	}
	p = p.Masked()
	bits := p.Bits()
	switch {
	case p.Addr().Is4():
		bits += 96
	case p.Overlaps(mappedIPv4):
		return sockopsException{}, fmt.Errorf("except %v: it spans the IPv4-mapped addresses (name IPv4 prefixes as IPv4)", p)
	}
	return sockopsException{Bits: uint32(bits), Addr: addrFrom(p.Addr())}, nil
}

// podExceptionsFrom writes the pod's exceptions as keys of the trie of all pods.
func podExceptionsFrom(cookie uint64, except []netip.Prefix) (map[sockopsPodException]bool, error) {
	if len(except) > MaxExcept {
		return nil, fmt.Errorf("%d exceptions, at most %d", len(except), MaxExcept)
	}
	out := make(map[sockopsPodException]bool, len(except))
	for _, prefix := range except {
		e, err := exceptionFrom(prefix)
		if err != nil {
			return nil, err
		}
		out[sockopsPodException{Bits: 64 + e.Bits, Cookie: halves(cookie), Addr: e.Addr}] = true
	}
	return out, nil
}

func halves(cookie uint64) [2]uint32 { return [2]uint32{uint32(cookie), uint32(cookie >> 32)} }

var mappedIPv4 = netip.PrefixFrom(netip.AddrFrom16([16]byte{10: 0xff, 11: 0xff}), 96)
