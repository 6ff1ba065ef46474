// SPDX-License-Identifier: Apache-2.0

package netns

import (
	"fmt"
	"testing"

	"github.com/warren-mesh/warren/tests/testutil"
)

// TestUnenrolledPodsAreUntouched lets two pods outside the mesh talk across nodes where it runs: their sockets connect
// to each other and to nothing else, and the mesh does not know of it.
func TestUnenrolledPodsAreUntouched(t *testing.T) {
	testutil.Privileged(t)
	s := newSpine(t, Options{})
	from, to := s.Node("a").Pod("from"), s.Node("b").Pod("to")
	echo(t, to, ":8080")
	for _, network := range []string{"tcp4", "tcp6"} {
		t.Run(network, func(t *testing.T) {
			wire, a, b := s.Capture(), witness(t, s.Node("a")), witness(t, s.Node("b"))
			address := to.Addr(network, 8080)
			c := openEcho(t, from, network, address.String())
			defer c.Close()
			if c.RemoteAddr().String() != address.String() {
				t.Errorf("getpeername says %s, want %s", c.RemoteAddr(), address)
			}
			const marker = "outside-and-plain"
			if err := ping(c, marker); err != nil {
				t.Fatal(err)
			}
			local := c.LocalAddr().String()
			c.Close()
			// Whatever the mesh had written about it would come before this.
			if _, _, err := talk(t, s.client, network, s.far.Addr(network, 8080).String(), "fence"); err != nil {
				t.Fatal(err)
			}
			a.line("src.workload=client", "dst.workload=far")
			b.line("src.workload=client", "dst.workload=far")
			wire.Stop()
			direct := false
			for _, f := range wire.Contains([]byte(marker)) {
				direct = direct || f.Source.String() == local && f.Destination == address
			}
			if !direct {
				t.Errorf("the marker went by %v, want %s -> %s", wire.Contains([]byte(marker)), local, address)
			}
			for _, e := range []*evidence{a, b} {
				if n := len(e.lines()); n != 1 {
					t.Errorf("node %s: %d lines in the access log, want the one of the fence:\n%s", e.node.Name, n, e.lines())
				}
			}
			if n := b.grown("CAPTURED_INBOUND"); n != 0 {
				t.Errorf("the kernel steered %d connections to the plaintext listener", n)
			}
		})
	}
}

// TestPlaintextIsLabelled sends across the border of the mesh, both ways: it works, and log and metrics say that it was
// plaintext and claim no identity.
func TestPlaintextIsLabelled(t *testing.T) {
	testutil.Privileged(t)
	s := newSpine(t, Options{})
	outsider := s.Node("b").Pod("outsider")
	echo(t, outsider, ":8080")
	for _, tt := range []struct {
		name, reporter, reason string
		from, to, served       *Pod
	}{
		{"out of the mesh", "source", "PASSTHROUGH_NOT_ENROLLED", s.client, outsider, s.client},
		{"into the mesh", "destination", "INBOUND_PLAINTEXT", outsider, s.near, s.near},
	} {
		for _, network := range []string{"tcp4", "tcp6"} {
			t.Run(tt.name+" "+network, func(t *testing.T) {
				e := witness(t, tt.served.Node)
				wire := s.Capture()
				const marker = "plain-over-the-border"
				local, _, err := talk(t, tt.from, network, tt.to.Addr(network, 8080).String(), marker)
				if err != nil {
					t.Fatal(err)
				}
				wire.Stop()
				if len(wire.Contains([]byte(marker))) == 0 {
					t.Errorf("the marker is not on the wire: %v", wire.Flows())
				}
				e.ended(tt.reporter, tt.reason, "src.addr="+local, fmt.Sprintf("dst.addr=%s", tt.to.Addr(network, 8080)))
				for _, line := range e.lines("src.addr=" + local) {
					if containsAny(line, "identity=", "hbone_addr=") {
						t.Errorf("the log claims mutual TLS: %s", line)
					}
				}
				labels := []string{fmt.Sprintf("reporter=%q", tt.reporter), fmt.Sprintf("source_workload=%q", tt.from.Name), fmt.Sprintf("destination_workload=%q", tt.to.Name)}
				opened := func(page string, more ...string) float64 {
					return metric(page, "istio_tcp_connections_opened_total", append(labels, more...)...)
				}
				page := e.scrape()
				plain := []string{`connection_security_policy="unknown"`, `source_principal="unknown"`, `destination_principal="unknown"`}
				if n := opened(page, plain...) - opened(e.metrics, plain...); n != 1 {
					t.Errorf("metric of plaintext grew by %v, want 1", n)
				}
				if n := opened(page, `connection_security_policy="mutual_tls"`); n != 0 {
					t.Errorf("metric of mutual TLS is %v", n)
				}
			})
		}
	}
}
