// SPDX-License-Identifier: Apache-2.0

package bpf

import (
	"encoding/binary"
	"net/netip"
	"testing"

	"github.com/cilium/ebpf"

	"github.com/warren-mesh/warren/tests/testutil"
)

// loadGuardAlone loads the guard for pod 1 with maps of its own, pinned nowhere.
func loadGuardAlone(t *testing.T) *ebpf.Program {
	testutil.Privileged(t)
	objs := must1(parseObjects())(t)
	d := &Datapath{objects: objs, maps: map[string]*ebpf.Map{}}
	for name, spec := range objs.shared {
		d.maps[name] = must1(ebpf.NewMap(spec))(t)
	}
	prog := must1(objs.loadForPod(objs.guard, guardProgOnLeave, 1, d.maps))(t)
	must(t, d.maps[mapPods].Put(uint64(1), &sockopsPod{Flags: flagCaptured}))
	return prog
}

// opensTCP reads a frame as a receiver does: is it, whole or as a first fragment, a TCP SYN to a place that is not
// link-local?
func opensTCP(frame []byte) bool {
	proto, rest := binary.BigEndian.Uint16(frame[12:]), frame[14:]
	for proto == etherVLAN || proto == etherQinQ {
		if len(rest) < 4 {
			return false
		}
		proto, rest = binary.BigEndian.Uint16(rest[2:]), rest[4:]
	}
	switch proto {
	case etherIPv4:
		return opensTCP4(rest)
	case etherIPv6:
		return opensTCP6(rest)
	}
	return false
}

func opensTCP4(b []byte) bool {
	if len(b) < 20 || b[0]>>4 != 4 || b[0]&15 < 5 || b[9] != 6 {
		return false
	}
	head, total := int(b[0]&15)*4, int(binary.BigEndian.Uint16(b[2:]))
	if total < head || total > len(b) || binary.BigEndian.Uint16(b[6:])&0x1fff != 0 {
		return false
	}
	dst, _ := netip.AddrFromSlice(b[16:20])
	return !dst.IsLinkLocalUnicast() && isSYN(b[head:total])
}

func opensTCP6(b []byte) bool {
	if len(b) < 40 || b[0]>>4 != 6 {
		return false
	}
	dst, _ := netip.AddrFromSlice(b[24:40])
	if dst.IsLinkLocalUnicast() || dst.Is4In6() && dst.Unmap().IsLinkLocalUnicast() {
		return false
	}
	next, size := b[6], int(binary.BigEndian.Uint16(b[4:]))
	if size > len(b)-40 {
		return false
	}
	for b = b[40 : 40+size]; ; {
		var n int
		switch next {
		case 6:
			return isSYN(b)
		case 0, 43, 60, 135, 139, 140:
			if len(b) < 8 {
				return false
			}
			n = 8 * (1 + int(b[1]))
		case 51:
			if len(b) < 8 {
				return false
			}
			n = 4 * (2 + int(b[1]))
		case 44:
			if len(b) < 8 || binary.BigEndian.Uint16(b[2:])>>3 != 0 {
				return false
			}
			n = 8
		default:
			return false
		}
		if n > len(b) {
			return false
		}
		next, b = b[0], b[n:]
	}
}

func isSYN(b []byte) bool {
	return len(b) >= 20 && b[13]&(flagSYN|flagACK) == flagSYN
}
