// SPDX-License-Identifier: Apache-2.0

package bpf

import (
	"net/netip"
	"testing"

	"github.com/cilium/ebpf"

	"github.com/warren-mesh/warren/mesh/reason"
)

const (
	verdictNext = 0xffffffff // TCX_NEXT
	verdictDrop = 2
)

// loadGuardFor gives the guard's program for a captured pod that need not exist, to be run on frames.
func loadGuardFor(t testing.TB, d *Datapath, cookie uint64) *ebpf.Program {
	t.Helper()
	prog, err := d.objects.loadForPod(d.objects.guard, guardProgOnLeave, cookie, d.maps)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { prog.Close() })
	if err := d.maps[mapPods].Put(cookie, &sockopsPod{Flags: flagCaptured}); err != nil {
		t.Fatal(err)
	}
	return prog
}

var (
	from4, to4 = netip.MustParseAddrPort("10.9.0.2:1234"), netip.MustParseAddrPort("192.0.2.7:80")
	from6, to6 = netip.MustParseAddrPort("[fd09::2]:1234"), netip.MustParseAddrPort("[2001:db8::7]:80")
	except4    = netip.MustParseAddrPort("203.0.113.9:80")
	except6    = netip.MustParseAddrPort("[2001:db8:e::9]:80")
)

func tcp4(dst netip.AddrPort, flags byte) []byte {
	return ipv4(from4.Addr(), dst.Addr(), 6, 0, nil, tcpHeader(from4, dst, flags))
}

func tcp6(dst netip.AddrPort, flags byte) []byte {
	return ipv6(from6.Addr(), dst.Addr(), 6, tcpHeader(from6, dst, flags))
}

// fragment4 is a piece of a TCP segment; offset in units of 8.
func fragment4(offset uint16, more bool, payload []byte) []byte {
	if more {
		offset |= 0x2000
	}
	return ipv4(from4.Addr(), to4.Addr(), 6, offset, nil, payload)
}

// nested6 is a TCP SYN behind n destination-options headers.
func nested6(n int, flags byte) []byte {
	var chain [][]byte
	for i := range n {
		next := byte(60)
		if i == n-1 {
			next = 6
		}
		chain = append(chain, extension(next, i%3))
	}
	first := byte(60)
	if n == 0 {
		first = 6
	}
	return ipv6(from6.Addr(), to6.Addr(), first, append(chain, tcpHeader(from6, to6, flags))...)
}

func TestGuardFrames(t *testing.T) {
	n := newNode(t)
	must(t, n.d.SetExceptions([]netip.Prefix{
		netip.MustParsePrefix("203.0.113.0/24"), netip.MustParsePrefix("2001:db8:e::/48"),
	}))
	prog := loadGuardFor(t, n.d, 1)
	syn4, syn6 := tcpHeader(from4, to4, flagSYN), tcpHeader(from6, to6, flagSYN)
	ack4, ack6 := tcpHeader(from4, to4, flagACK), tcpHeader(from6, to6, flagACK)
	short4 := tcp4(to4, flagACK)
	short4[2], short4[3] = 0, 20+10 // a longer frame lends it the flags' byte
	short6 := tcp6(to6, flagACK)
	short6[4], short6[5] = 0, 10
	udp := make([]byte, 20)
	lsrr := []byte{131, 7, 4, 192, 0, 2, 7, 0}
	routing := extension(6, 2)

	tests := []struct {
		name  string
		frame []byte
		want  uint32
		why   reason.Reason
	}{
		{"IPv4 SYN", ether(etherIPv4, tcp4(to4, flagSYN)), verdictDrop, reason.GuardNotExempt},
		{"IPv6 SYN", ether(etherIPv6, tcp6(to6, flagSYN)), verdictDrop, reason.GuardNotExempt},
		{"SYN and FIN", ether(etherIPv4, tcp4(to4, flagSYN|flagFIN)), verdictDrop, reason.GuardNotExempt},
		{"SYN and RST", ether(etherIPv4, tcp4(to4, flagSYN|flagRST)), verdictDrop, reason.GuardNotExempt},
		{"SYN with ECN bits", ether(etherIPv4, tcp4(to4, flagSYN|0xc0)), verdictDrop, reason.GuardNotExempt},
		{"SYN to link-local", ether(etherIPv4, tcp4(at(netip.MustParseAddr("169.254.1.1"), 80), flagSYN)), verdictNext, reason.Excepted},
		{"SYN to exception", ether(etherIPv4, tcp4(except4, flagSYN)), verdictNext, reason.Excepted},
		{"IPv6 SYN to exception", ether(etherIPv6, tcp6(except6, flagSYN)), verdictNext, reason.Excepted},
		{"SYN source-routed by an exception", ether(etherIPv4, ipv4(from4.Addr(), except4.Addr(), 6, 0, lsrr, syn4)), verdictDrop, reason.GuardNotExempt},
		{"IPv6 SYN routed by an exception", ether(etherIPv6, ipv6(from6.Addr(), except6.Addr(), 43, routing, syn6)), verdictDrop, reason.GuardNotExempt},
		{"SYN-ACK", ether(etherIPv4, tcp4(to4, flagSYN|flagACK)), verdictNext, reason.None},
		{"IPv6 SYN-ACK", ether(etherIPv6, tcp6(to6, flagSYN|flagACK)), verdictNext, reason.None},
		{"ACK", ether(etherIPv4, tcp4(to4, flagACK)), verdictNext, reason.None},
		{"RST", ether(etherIPv6, tcp6(to6, flagRST)), verdictNext, reason.None},
		{"UDP", ether(etherIPv4, ipv4(from4.Addr(), to4.Addr(), 17, 0, nil, udp)), verdictNext, reason.None},
		{"UDP over IPv6 with options", ether(etherIPv6, ipv6(from6.Addr(), to6.Addr(), 60, extension(17, 0), udp)), verdictNext, reason.None},
		{"ARP", ether(0x0806, make([]byte, 28)), verdictNext, reason.None},

		{"VLAN", ether(etherIPv4, tcp4(to4, flagSYN), etherVLAN), verdictDrop, reason.GuardNotExempt},
		{"VLAN in VLAN", ether(etherIPv6, tcp6(to6, flagSYN), etherQinQ, etherVLAN), verdictDrop, reason.GuardNotExempt},
		{"VLAN, ACK", ether(etherIPv4, tcp4(to4, flagACK), etherVLAN), verdictNext, reason.None},
		{"too many tags", ether(etherIPv4, tcp4(to4, flagACK), etherQinQ, etherQinQ, etherQinQ, etherQinQ, etherVLAN), verdictDrop, reason.GuardUnparsable},

		{"IPv4 options", ether(etherIPv4, ipv4(from4.Addr(), to4.Addr(), 6, 0, make([]byte, 40), syn4)), verdictDrop, reason.GuardNotExempt},
		{"IPv4 options, ACK", ether(etherIPv4, ipv4(from4.Addr(), to4.Addr(), 6, 0, make([]byte, 40), ack4)), verdictNext, reason.None},
		{"header cut off", ether(etherIPv4, ipv4(from4.Addr(), to4.Addr(), 6, 0, nil, syn4[:13])), verdictDrop, reason.GuardUnparsable},
		{"IPv4 length too short for the flags", ether(etherIPv4, short4), verdictDrop, reason.GuardUnparsable},
		{"IPv6 length too short for the flags", ether(etherIPv6, short6), verdictDrop, reason.GuardUnparsable},
		{"not version 4", ether(etherIPv4, tcp6(to6, flagACK)), verdictDrop, reason.GuardUnparsable},
		{"not version 6", ether(etherIPv6, append(tcp4(to4, flagACK), make([]byte, 20)...)), verdictDrop, reason.GuardUnparsable},

		{"first fragment, SYN", ether(etherIPv4, fragment4(0, true, syn4)), verdictDrop, reason.GuardNotExempt},
		{"first fragment, ACK", ether(etherIPv4, fragment4(0, true, ack4)), verdictNext, reason.None},
		{"first fragment without flags", ether(etherIPv4, fragment4(0, true, syn4[:8])), verdictDrop, reason.GuardUnparsable},
		{"second fragment over the flags", ether(etherIPv4, fragment4(1, false, syn4[8:])), verdictDrop, reason.GuardUnparsable},
		{"second fragment behind the flags", ether(etherIPv4, fragment4(3, false, make([]byte, 8))), verdictNext, reason.None},

		{"one extension", ether(etherIPv6, nested6(1, flagSYN)), verdictDrop, reason.GuardNotExempt},
		{"five extensions", ether(etherIPv6, nested6(5, flagSYN)), verdictDrop, reason.GuardNotExempt},
		{"five extensions, ACK", ether(etherIPv6, nested6(5, flagACK)), verdictNext, reason.None},
		{"more extensions than are looked at", ether(etherIPv6, nested6(9, flagACK)), verdictDrop, reason.GuardUnparsable},
		{"hop-by-hop, routing", ether(etherIPv6, ipv6(from6.Addr(), to6.Addr(), 0, extension(43, 0), extension(6, 2), syn6)), verdictDrop, reason.GuardNotExempt},
		{"authentication header", ether(etherIPv6, ipv6(from6.Addr(), to6.Addr(), 51, append([]byte{6, 4}, make([]byte, 22)...), syn6)), verdictDrop, reason.GuardNotExempt},
		{"IPv6 atomic fragment", ether(etherIPv6, ipv6(from6.Addr(), to6.Addr(), 44, fragment6(6, 0, false), syn6)), verdictDrop, reason.GuardNotExempt},
		{"IPv6 first fragment, SYN", ether(etherIPv6, ipv6(from6.Addr(), to6.Addr(), 44, fragment6(6, 0, true), syn6)), verdictDrop, reason.GuardNotExempt},
		{"IPv6 first fragment, ACK", ether(etherIPv6, ipv6(from6.Addr(), to6.Addr(), 44, fragment6(6, 0, true), ack6)), verdictNext, reason.None},
		{"IPv6 first fragment, options then SYN", ether(etherIPv6, ipv6(from6.Addr(), to6.Addr(), 44, fragment6(60, 0, true), extension(6, 1), syn6)), verdictDrop, reason.GuardNotExempt},
		{"IPv6 first fragment ends in the options", ether(etherIPv6, ipv6(from6.Addr(), to6.Addr(), 44, fragment6(60, 0, true), extension(6, 1))), verdictDrop, reason.GuardUnparsable},
		{"IPv6 second fragment over the flags", ether(etherIPv6, ipv6(from6.Addr(), to6.Addr(), 44, fragment6(6, 1, false), syn6[8:])), verdictDrop, reason.GuardUnparsable},
		{"IPv6 second fragment behind the flags", ether(etherIPv6, ipv6(from6.Addr(), to6.Addr(), 44, fragment6(6, 3, false), make([]byte, 8))), verdictNext, reason.None},
		{"IPv6 second fragment of options", ether(etherIPv6, ipv6(from6.Addr(), to6.Addr(), 44, fragment6(60, 3, false), syn6)), verdictDrop, reason.GuardUnparsable},
		{"IPv6 second fragment of UDP", ether(etherIPv6, ipv6(from6.Addr(), to6.Addr(), 44, fragment6(17, 3, false), udp)), verdictNext, reason.None},
		{"fragment in fragment", ether(etherIPv6, ipv6(from6.Addr(), to6.Addr(), 44, fragment6(44, 0, true), fragment6(6, 0, false), ack6)), verdictDrop, reason.GuardUnparsable},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			before := must1(n.d.Stats())(t)
			got := must1(prog.Run(&ebpf.RunOptions{Data: tt.frame}))(t)
			if got != tt.want {
				t.Errorf("verdict %#x, want %#x", got, tt.want)
			}
			after := must1(n.d.Stats())(t)
			for r := range after {
				want := before[r]
				if reason.Reason(r) == tt.why && tt.why != reason.None {
					want++
				}
				if after[r] != want {
					t.Errorf("%v counted %d times, want %d", reason.Reason(r), after[r]-before[r], want-before[r])
				}
			}
		})
	}

	must(t, n.d.maps[mapPods].Put(uint64(1), &sockopsPod{Flags: flagKeepHBONE}))
	if got := must1(prog.Run(&ebpf.RunOptions{Data: ether(etherIPv4, tcp4(to4, flagSYN))}))(t); got != verdictNext {
		t.Errorf("verdict for a pod that left is %#x", got)
	}
}

// FuzzGuard compares the guard with a second reading of the same rules in Go: whatever a receiver could take for a
// TCP SYN must not pass.
func FuzzGuard(f *testing.F) {
	for _, seed := range [][]byte{
		ether(etherIPv4, tcp4(to4, flagSYN)), ether(etherIPv6, tcp6(to6, flagSYN), etherVLAN),
		ether(etherIPv6, nested6(3, flagSYN)), ether(etherIPv4, fragment4(0, true, tcpHeader(from4, to4, flagSYN))),
		ether(etherIPv6, ipv6(from6.Addr(), to6.Addr(), 44, fragment6(6, 0, true), tcpHeader(from6, to6, flagSYN))),
	} {
		f.Add(seed)
	}
	var prog *ebpf.Program
	f.Fuzz(func(t *testing.T, frame []byte) {
		if prog == nil {
			prog = loadGuardAlone(t)
		}
		if len(frame) < 15 || len(frame) > 1500 {
			return
		}
		got, err := prog.Run(&ebpf.RunOptions{Data: frame})
		if err != nil {
			return // the kernel takes no such frame
		}
		if got != verdictNext && got != verdictDrop {
			t.Fatalf("verdict %#x", got)
		}
		if got == verdictNext && opensTCP(frame) {
			t.Fatalf("a SYN passed: %x", frame)
		}
	})
}
