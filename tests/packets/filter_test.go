// SPDX-License-Identifier: Apache-2.0

package packets

import (
	"net"
	"net/netip"
	"testing"

	"golang.org/x/net/bpf"
)

func TestSources(t *testing.T) {
	a4, b4 := netip.MustParseAddrPort("10.1.2.3:1"), netip.MustParseAddrPort("10.1.2.4:2")
	a6, b6 := netip.MustParseAddrPort("[fd00::1:2]:1"), netip.MustParseAddrPort("[fd00::2:2]:2")
	mac := net.HardwareAddr{2, 0, 0, 0, 0, 1}
	four := func(from, to netip.AddrPort) []byte {
		return Ethernet(mac, mac, IPv4(from.Addr(), to.Addr(), 0, TCP(from, to, SYN, [4]byte{})), false)
	}
	six := func(from, to netip.AddrPort) []byte {
		return Ethernet(mac, mac, IPv6(from.Addr(), to.Addr(), 6, TCP(from, to, SYN, [4]byte{})), false)
	}
	raw, err := sources([]netip.Addr{a4.Addr(), a6.Addr()})
	if err != nil {
		t.Fatal(err)
	}
	program, _ := bpf.Disassemble(raw)
	vm, err := bpf.NewVM(program)
	if err != nil {
		t.Fatal(err)
	}
	for _, tt := range []struct {
		name  string
		frame []byte
		want  bool
	}{
		{"from the IPv4 address", four(a4, b4), true},
		{"to it", four(b4, a4), false},
		{"from the IPv6 address", six(a6, b6), true},
		{"to it", six(b6, a6), false},
		{"something else", make([]byte, 60), false},
		{"nearly nothing", []byte{1}, false},
	} {
		t.Run(tt.name, func(t *testing.T) {
			n, err := vm.Run(tt.frame)
			if err != nil || (n > 0) != tt.want {
				t.Errorf("takes %d bytes, %v; want any: %v", n, err, tt.want)
			}
		})
	}
}
