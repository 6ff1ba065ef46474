// SPDX-License-Identifier: Apache-2.0

package packets

import (
	"encoding/binary"
	"fmt"
	"net/netip"
	"os"
	"unsafe"

	"golang.org/x/net/bpf"
	"golang.org/x/sys/unix"
)

// word is what a frame has to have at an offset.
type word struct{ offset, size, value uint32 }

// from is where a frame of Ethernet, with an IP packet from that address in it, has what.
func from(a netip.Addr) []word {
	if a.Is4() {
		b := a.As4()
		return []word{{12, 2, 0x0800}, {26, 4, binary.BigEndian.Uint32(b[:])}}
	}
	words := []word{{12, 2, 0x86dd}}
	b := a.As16()
	for i := uint32(0); i < 16; i += 4 {
		words = append(words, word{22 + i, 4, binary.BigEndian.Uint32(b[i:])})
	}
	return words
}

// sources is a filter that takes frames with packets from one of the addresses, whole.
func sources(addrs []netip.Addr) ([]bpf.RawInstruction, error) {
	var program []bpf.Instruction
	for _, a := range addrs {
		words := from(a.Unmap())
		for i, w := range words {
			program = append(program, bpf.LoadAbsolute{Off: w.offset, Size: int(w.size)},
				bpf.JumpIf{Cond: bpf.JumpNotEqual, Val: w.value, SkipTrue: uint8(2*(len(words)-1-i) + 1)})
		}
		program = append(program, bpf.RetConstant{Val: 1 << 18})
	}
	return bpf.Assemble(append(program, bpf.RetConstant{Val: 0}))
}

// filter has the kernel drop all other frames before they take the socket's room.
func filter(fd int, addrs []netip.Addr) error {
	raw, err := sources(addrs)
	if err != nil {
		return fmt.Errorf("assemble filter: %w", err)
	}
	program := &unix.SockFprog{Len: uint16(len(raw)), Filter: (*unix.SockFilter)(unsafe.Pointer(&raw[0]))}
	return os.NewSyscallError("setsockopt SO_ATTACH_FILTER", unix.SetsockoptSockFprog(fd, unix.SOL_SOCKET, unix.SO_ATTACH_FILTER, program))
}
