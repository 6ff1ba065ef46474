// SPDX-License-Identifier: Apache-2.0

package bpf

import (
	"net/netip"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/warren-mesh/warren/mesh/broker"
)

// TestBoundToCapturePort connects sockets that are bound to each port of the capture range, which is also where they are
// sent: sent to its own port, a socket would connect to itself, and nobody would notice.
func TestBoundToCapturePort(t *testing.T) {
	n := newNode(t)
	p := n.newPod().capture()
	for round := range 16 { // one in 64 sockets would meet itself
		family, own, dst := unix.AF_INET, p.ip4, outside4
		if round%2 == 1 {
			family, own, dst = unix.AF_INET6, p.ip6, outside6
		}
		for port := uint16(broker.CaptureFirst); port <= broker.CaptureLast; port++ {
			fd := p.quickSocket(family)
			must(t, unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_REUSEADDR, 1))
			must(t, unix.SetsockoptLinger(fd, unix.SOL_SOCKET, unix.SO_LINGER, &unix.Linger{Onoff: 1})) // no TIME_WAIT
			must(t, unix.Bind(fd, sockaddr(family, netip.AddrPortFrom(own, port))))
			must(t, unix.Connect(fd, sockaddr(family, dst)))
			c := accept(t, p.out)
			if got := c.RemoteAddr().(interface{ AddrPort() netip.AddrPort }).AddrPort().Port(); got != port {
				t.Errorf("accepted port %d, want %d", got, port)
			}
			c.Close()
			unix.Close(fd)
		}
	}
}
