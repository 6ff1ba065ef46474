// SPDX-License-Identifier: Apache-2.0

package netns

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os/exec"
	"strings"
	"sync"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/warren-mesh/warren/tests/escape"
	"github.com/warren-mesh/warren/tests/packets"
	"github.com/warren-mesh/warren/tests/testutil"
)

// prison is a mesh with a captured client that wants out: to a pod outside the mesh on the other node, and to a captured
// one there that is STRICT.
type prison struct {
	*spine
	outside *Pod
	heard   *ledger // what the outside pod got
	wire    *packets.Capture
	a, b    *evidence
}

// ledger is what a server got: the first line of each connection, and from whom.
type ledger struct {
	mu    sync.Mutex
	lines map[string]string
}

func (l *ledger) from(line string) string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.lines[line]
}

func newPrison(t *testing.T) *prison {
	t.Helper()
	s := newSpine(t, Options{})
	p := &prison{spine: s, outside: s.Node("b").Pod("outside"), heard: &ledger{lines: map[string]string{}}}
	serve(t, p.outside, ":8080", func(c *net.TCPConn) {
		line, err := bufio.NewReader(c).ReadString('\n')
		if err != nil {
			return
		}
		p.heard.mu.Lock()
		p.heard.lines[strings.TrimSpace(line)] = c.RemoteAddr().String()
		p.heard.mu.Unlock()
		fmt.Fprint(c, "heard ", line)
	})
	serve(t, s.far, ":8081", func(c *net.TCPConn) {
		if line, err := bufio.NewReader(c).ReadString('\n'); err == nil {
			fmt.Fprint(c, "heard ", line)
		}
	})
	s.Strict("app")
	testutil.Eventually(t, told, "STRICT has arrived", func() bool {
		_, _, err := end(t, p.outside, s.far.Addr("tcp4", 8080).String())
		return isReset(err)
	})
	s.waitKnown(t, s.Node("a"), "outside", true)
	p.wire, p.a, p.b = s.Capture(), witness(t, s.Node("a")), witness(t, s.Node("b"))
	return p
}

// TestNoWayAroundByConnect tries every escape.Way to connect, from a captured pod, as uid 0 with all capabilities. Each is
// carried by the mesh, which the client's ztunnel proves with a line about just this connection, or does not happen.
func TestNoWayAroundByConnect(t *testing.T) {
	testutil.Privileged(t)
	p := newPrison(t)
	carried := 0
	for i, y := range escape.Ways {
		for _, family := range []int{unix.AF_INET, unix.AF_INET6} {
			if y.Mapped && family == unix.AF_INET {
				continue
			}
			t.Run(fmt.Sprintf("%s, IPv%d", y.Name, map[int]int{unix.AF_INET: 4, unix.AF_INET6: 6}[family]), func(t *testing.T) {
				for _, target := range []netip.AddrPort{p.at(p.outside, 8080, y, family), p.at(p.far, 8081, y, family)} {
					line := fmt.Sprintf("marker-%d-%d-%d", i, family, target.Port())
					if p.try(t, y, family, target, line) {
						carried++
					}
				}
			})
		}
	}
	p.wire.Stop()
	t.Run("nothing else left the pod", func(t *testing.T) { p.check(t, carried) })
}

// at is a pod's address as the way names it.
func (p *prison) at(to *Pod, port uint16, y escape.Way, family int) netip.AddrPort {
	switch {
	case y.Mapped:
		return netip.AddrPortFrom(netip.AddrFrom16(to.IPv4.As16()), port)
	case family == unix.AF_INET6:
		return netip.AddrPortFrom(to.IPv6, port)
	}
	return netip.AddrPortFrom(to.IPv4, port)
}

// try connects and sends the line; it says whether the line arrived, and then there must be a record of it.
func (p *prison) try(t *testing.T, y escape.Way, family int, to netip.AddrPort, line string) bool {
	t.Helper()
	from := p.client.IPv4
	if family == unix.AF_INET6 {
		from = p.client.IPv6
	}
	w := &escape.Attempt{From: netip.AddrPortFrom(from, 0), To: to, Family: family, First: []byte(line + "\n")}
	if y.Mapped {
		w.From = netip.AddrPortFrom(netip.AddrFrom16(p.client.IPv4.As16()), 0)
	}
	c, err := y.Open(p.client.Socket, w)
	var local string
	if err == nil {
		local, err = sendLine(c, w, line)
		c.Close()
	}
	if y.Fails {
		if err == nil {
			t.Errorf("to %s: it connected", to)
		}
		if seen := p.heard.from(line); seen != "" {
			t.Errorf("to %s: the line arrived all the same, from %s", to, seen)
		}
		return false
	}
	if err != nil {
		t.Errorf("to %s: %v, want it carried", to, err)
		return false
	}
	to = netip.AddrPortFrom(to.Addr().Unmap(), to.Port())
	if a, b := p.a.in(t), p.b.in(t); to.Port() == 8080 {
		a.line("direction=outbound", "src.addr="+local, "dst.addr="+to.String(), "reason=PASSTHROUGH_NOT_ENROLLED")
	} else {
		a.line("direction=outbound", "src.addr="+local, "dst.hbone_addr="+to.String(), "reason=TUNNEL")
		b.line("direction=inbound", "src.identity="+account("app", "client").String(), "dst.hbone_addr="+to.String(), "reason=TUNNEL")
	}
	return true
}

// sendLine sends what was not sent yet and wants the server's word for it. It returns the connection's own address.
func sendLine(c net.Conn, w *escape.Attempt, line string) (string, error) {
	if _, err := c.Write(w.First[w.Sent:]); err != nil {
		return "", err
	}
	got, err := io.ReadAll(c)
	if err != nil {
		return "", err
	}
	if string(got) != "heard "+line+"\n" {
		return "", fmt.Errorf("answer %q", got)
	}
	local, err := netip.ParseAddrPort(c.LocalAddr().String())
	return netip.AddrPortFrom(local.Addr().Unmap(), local.Port()).String(), err
}

// check looks at everything that went over the wire: each connection out of the client's pod is one that its ztunnel
// has a line for, and to the STRICT pod there is only TLS.
func (p *prison) check(t *testing.T, carried int) {
	if err := p.wire.Err(); err != nil {
		t.Error(err)
	}
	for _, family := range []string{"tcp4", "tcp6"} {
		from, outside, far := p.client.Addr(family, 0).Addr(), p.outside.Addr(family, 8080), p.far.Addr(family, 0).Addr()
		seen := 0
		for _, f := range p.wire.Between(from, outside.Addr()) {
			if f.Source.Addr() != from {
				continue
			}
			if seen++; f.Destination != outside {
				t.Errorf("a connection to another port: %s", f)
			}
		}
		if logged := len(p.a.lines("direction=outbound", "src.workload=client", "dst.addr="+outside.String())); seen > logged {
			t.Errorf("%s: %d connections to the pod outside are on the wire, ztunnel carried %d", family, seen, logged)
		}
		for _, f := range p.wire.Flows() {
			if f.Destination == outside && f.Source.Addr() != from {
				t.Errorf("somebody else's connection, or a forged address: %s", f)
			}
		}
		for _, f := range p.wire.Between(from, far) {
			if f.Source.Port() != hbonePort && f.Destination.Port() != hbonePort {
				t.Errorf("a connection around the tunnel: %s", f)
			} else if _, err := packets.TLSRecords(p.wire.Bytes(f)); err != nil {
				t.Errorf("%s: %v", f, err)
			}
		}
	}
	for _, word := range []string{"STRICT_MTLS", "INBOUND_PLAINTEXT", "PLAINTEXT_FROM_MESH"} {
		if lines := p.b.lines("direction=inbound", "src.workload=client", "reason="+word); len(lines) > 0 {
			t.Errorf("plaintext from the client reached the far ztunnel: %s", lines)
		}
	}
	for _, f := range p.wire.Contains([]byte("marker-")) {
		if f.Source.Addr() == p.far.IPv4 || f.Source.Addr() == p.far.IPv6 || f.Destination.Addr() == p.far.IPv4 || f.Destination.Addr() == p.far.IPv6 {
			t.Errorf("plaintext to or from the STRICT pod: %s", f)
		}
	}
	if carried == 0 {
		t.Error("nothing was carried at all")
	}
}

// TestNoUserIsExempt connects by processes of several users in the pod, ztunnel's own among them.
func TestNoUserIsExempt(t *testing.T) {
	testutil.Privileged(t)
	p := newPrison(t)
	carried := 0
	for _, uid := range []uint32{0, 1337, warrenID, controlID} {
		t.Run(fmt.Sprint("uid ", uid), func(t *testing.T) {
			for _, to := range []netip.AddrPort{p.outside.Addr("tcp4", 8080), p.far.Addr("tcp4", 8081)} {
				line := fmt.Sprintf("marker-uid-%d-%d", uid, to.Port())
				before := len(p.a.lines("direction=outbound", "src.workload=client"))
				script := fmt.Sprintf("exec 3<>/dev/tcp/%s/%d; echo %s >&3; cat <&3", to.Addr(), to.Port(), line)
				cmd := exec.CommandContext(t.Context(), "bash", "-c", script)
				cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: uid, Gid: uid}}
				out, err := run(cmd, p.client.Start)
				if err != nil || out != "heard "+line+"\n" {
					t.Errorf("to %s: %q, %v", to, out, err)
					continue
				}
				carried++
				p.a.in(t).eventually("one more line about the client", func() bool {
					return len(p.a.lines("direction=outbound", "src.workload=client")) == before+1
				})
			}
		})
	}
	p.wire.Stop()
	p.check(t, carried)
}

// TestOwnMeshPortsAreClosed dials the mesh's ports in the client's own pod: ztunnel's listeners are bound right there.
func TestOwnMeshPortsAreClosed(t *testing.T) {
	testutil.Privileged(t)
	p := newPrison(t)
	for _, address := range []string{"127.0.0.1", "127.9.9.9", "[::1]", "0.0.0.0", p.client.IPv4.String(), "[" + p.client.IPv6.String() + "]"} {
		t.Run(address, func(t *testing.T) {
			a := witness(t, p.client.Node)
			for _, port := range []int{15001, 15006, 15008, 15053} {
				if c, err := p.client.Dial(t.Context(), "tcp", fmt.Sprint(address, ":", port)); !errors.Is(err, syscall.EPERM) {
					t.Errorf("port %d: %v, want EPERM", port, err)
					if err == nil {
						c.Close()
					}
				}
			}
			if n := a.grown("RESERVED_PORT"); n != 4 {
				t.Errorf("the kernel counted %d of 4 as RESERVED_PORT", n)
			}
			for port := 61000; port < 61064; port++ {
				if c, err := p.client.Dial(t.Context(), "tcp", fmt.Sprint(address, ":", port)); !errors.Is(err, syscall.ECONNREFUSED) {
					t.Errorf("capture port %d: %v, want it refused", port, err)
					if err == nil {
						c.Close()
					}
				}
			}
			if lines := a.lines("src.workload=client"); len(lines) > 0 {
				t.Errorf("ztunnel was reached: %s", lines)
			}
		})
	}
}

// TestMeshPortsElsewhereAreNoWayOut dials the mesh's ports at other pods, captured and not.
func TestMeshPortsElsewhereAreNoWayOut(t *testing.T) {
	testutil.Privileged(t)
	p := newPrison(t)
	reached := map[int]bool{}
	var mu sync.Mutex
	ports := []int{15001, 15006, 15008, 15053, 61000, 61063}
	for _, port := range ports {
		serve(t, p.outside, fmt.Sprint(":", port), func(*net.TCPConn) {
			mu.Lock()
			reached[port] = true
			mu.Unlock()
		})
	}
	for _, network := range []string{"tcp4", "tcp6"} {
		for _, port := range ports {
			t.Run(fmt.Sprintf("%s, port %d of a captured pod", network, port), func(t *testing.T) {
				a := witness(t, p.client.Node)
				to := p.far.Addr(network, uint16(port)).String()
				local, _, err := end(t, p.client, to)
				if !isReset(err) {
					t.Errorf("got %v, want a reset", err)
				}
				a.ended("source", "RECURSIVE_CALL", by(local, p.client), "dst.addr="+to)
			})
		}
		for _, port := range ports {
			t.Run(fmt.Sprintf("%s, port %d of a pod outside", network, port), func(t *testing.T) {
				a := witness(t, p.client.Node)
				to := p.outside.Addr(network, uint16(port)).String()
				local, _, err := end(t, p.client, to)
				if port == 15008 { // what ztunnel dials anyway: carried in plaintext, with a line about it
					a.line("direction=outbound", by(local, p.client), "dst.addr="+to)
					return
				}
				if !isReset(err) {
					t.Errorf("got %v, want a reset", err)
				}
				a.ended("source", "CONNECT_FAILURE", by(local, p.client), "dst.addr="+to)
				a.counted("EXEMPT_REFUSED")
			})
		}
	}
	p.wire.Stop()
	for port := range reached {
		if port != 15008 {
			t.Errorf("port %d of the pod outside was reached", port)
		}
	}
	for _, network := range []string{"tcp4", "tcp6"} {
		for _, f := range append(p.wire.Between(p.client.Addr(network, 0).Addr(), p.outside.Addr(network, 0).Addr()), p.wire.Between(p.client.Addr(network, 0).Addr(), p.far.Addr(network, 0).Addr())...) {
			if f.Source.Port() != hbonePort && f.Destination.Port() != hbonePort {
				t.Errorf("on the wire: %s", f)
			}
		}
	}
}
