// SPDX-License-Identifier: Apache-2.0

package main

import (
	"flag"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"

	"golang.org/x/sys/unix"

	"github.com/warren-mesh/warren/tests/e2e/testapp/answer"
	"github.com/warren-mesh/warren/tests/escape"
)

// own opens sockets of this process.
func own(family, kind, protocol int) (*os.File, error) {
	fd, err := unix.Socket(family, kind|unix.SOCK_CLOEXEC, protocol)
	if err != nil {
		return nil, os.NewSyscallError("socket", err)
	}
	return os.NewFile(uintptr(fd), "socket"), nil
}

// escapes is the verb escape: every way to connect, or every packet.
func escapes(args []string, out io.Writer) error {
	fs := flag.NewFlagSet("escape", flag.ContinueOnError)
	next := fs.String("next", "", "MAC of the next hop, for packets")
	if err := fs.Parse(args); err != nil {
		return err
	}
	if fs.NArg() != 4 {
		return fmt.Errorf("escape: %d arguments, want connect|packets FROM TO LINE", fs.NArg())
	}
	from, err := netip.ParseAddr(fs.Arg(1))
	if err != nil {
		return err
	}
	to, err := netip.ParseAddrPort(fs.Arg(2))
	if err != nil {
		return err
	}
	var all []answer.Escape
	switch fs.Arg(0) {
	case "connect":
		all = connects(from, to, fs.Arg(3))
	case "packets":
		all, err = sends(*next, from, to, fs.Arg(3))
	default:
		err = fmt.Errorf("escape: %s: want connect or packets", fs.Arg(0))
	}
	if err != nil {
		return err
	}
	return print(out, all)
}

// connects tries all ways; each says the line with its number.
func connects(from netip.Addr, to netip.AddrPort, line string) []answer.Escape {
	family := unix.AF_INET
	if to.Addr().Is6() {
		family = unix.AF_INET6
	}
	var all []answer.Escape
	for i, way := range escape.Ways {
		if way.Mapped && family == unix.AF_INET6 {
			continue
		}
		e := answer.Escape{Name: way.Name, Fails: way.Fails, Line: fmt.Sprintf("%s-%d", line, i)}
		w := &escape.Attempt{From: netip.AddrPortFrom(from, 0), To: to, Family: family, First: []byte(e.Line + "\n")}
		if way.Mapped {
			w.Family = unix.AF_INET6
			w.From = netip.AddrPortFrom(netip.AddrFrom16(from.As16()), 0)
			w.To = netip.AddrPortFrom(netip.AddrFrom16(to.Addr().As16()), to.Port())
		}
		e.End, e.Error = answer.EOF, ""
		if err := along(way, w, &e); err != nil {
			e.End, e.Error = ending(err), err.Error()
		}
		all = append(all, e)
	}
	return all
}

// along connects by the way and talks to an echo server.
func along(way escape.Way, w *escape.Attempt, e *answer.Escape) error {
	c, err := way.Open(own, w)
	if err != nil {
		return err
	}
	defer c.Close()
	if local, err := netip.ParseAddrPort(c.LocalAddr().String()); err == nil {
		e.Local = netip.AddrPortFrom(local.Addr().Unmap(), local.Port()).String()
	}
	if _, err := c.Write(w.First[w.Sent:]); err != nil {
		return err
	}
	if half, ok := c.(*net.TCPConn); ok {
		_ = half.CloseWrite()
	}
	b, err := io.ReadAll(c)
	if err != nil {
		return err
	}
	var pod, got string
	if _, err := fmt.Sscanf(string(b), "peer %s pod %s\n%s\n", &e.Peer, &pod, &got); err != nil || got != e.Line {
		return fmt.Errorf("answer %q", b)
	}
	return nil
}

// sends sends a SYN by every sender. Its sequence number is a tag: the text's first two bytes and a number. At the end
// comes a packet that may pass; its tag ends with 0.
func sends(next string, from netip.Addr, to netip.AddrPort, text string) ([]answer.Escape, error) {
	mac, err := net.ParseMAC(next)
	if err != nil {
		return nil, err
	}
	eth0, err := net.InterfaceByName("eth0")
	if err != nil {
		return nil, err
	}
	l := escape.Link{Socket: own, Index: eth0.Index, MAC: eth0.HardwareAddr, Next: mac}
	tag := func(n int) [4]byte { return [4]byte{text[0], text[1], 0xa5, byte(n)} }
	var all []answer.Escape
	for i, s := range escape.Senders() {
		if s.IPv6 != to.Addr().Is6() || s.VLAN {
			continue
		}
		t := tag(i + 1)
		e := answer.Escape{Name: s.Name, Reason: s.Reason, Tag: t[:]}
		if err := s.Send(l, netip.AddrPortFrom(from, uint16(2000+i)), to, t); err != nil {
			e.Error = err.Error()
		}
		all = append(all, e)
	}
	fence := tag(0)
	packet := escape.Whole(netip.AddrPortFrom(from, 1999), to, 0x10, fence)
	return append(all, answer.Escape{Name: "fence", Tag: fence[:]}), l.Inject(false, packet)
}
