// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"fmt"
	"strings"
	"testing"
)

// border is a client and a server in the mesh, and a pod outside of it that is both, on the server's node.
type border struct {
	*Mesh
	ns, out                  *Namespace
	client, server, outsider *Pod
}

func newBorder(t *testing.T, m *Mesh) *border {
	t.Helper()
	nodes := m.Nodes()
	b := &border{Mesh: m, ns: m.Namespace(t, "border", Enrolled()), out: m.Namespace(t, "outside")}
	outsider := App{Name: "outsider", Node: nodes[1]}
	b.out.Create(outsider)
	pods := b.ns.Deploy(App{Name: "client", Node: nodes[0]}, App{Name: "server", Node: nodes[0]})
	b.client, b.server = pods[0], pods[1]
	b.outsider = b.out.Wait(outsider)[0]
	return b
}

// TestPlaintextIsLabelled sends across the border of the mesh, both ways: it works, and log and metrics say that it was
// plaintext and claim no identity.
func TestPlaintextIsLabelled(t *testing.T) {
	b := newBorder(t, Shared(t))
	for _, tt := range []struct {
		name, reporter, reason string
		from, to, served       *Pod
	}{
		{"out of the mesh", "source", "PASSTHROUGH_NOT_ENROLLED", b.client, b.outsider, b.client},
		{"into the mesh", "destination", "INBOUND_PLAINTEXT", b.outsider, b.server, b.server},
	} {
		for _, network := range []string{"tcp4", "tcp6"} {
			t.Run(tt.name+" "+network, func(t *testing.T) {
				e, wire := b.Witness(t, tt.served.Node), b.Wire(t)
				marker := "plain-" + b.ns.Name + network
				a := tt.from.In(t).Talk(network, tt.to.Addr(network, EchoPort).String(), marker)
				if !a.OK() {
					t.Fatalf("%+v", a)
				}
				wire.Stop()
				if len(wire.Contains([]byte(marker))) == 0 {
					t.Error("the marker is not on the wire")
				}
				e.Ended(tt.reporter, tt.reason, "src.addr="+a.Local, fmt.Sprintf("dst.addr=%s", tt.to.Addr(network, EchoPort)))
				for _, line := range e.Lines("src.addr=" + a.Local) {
					if strings.Contains(line, "identity=") || strings.Contains(line, "hbone_addr=") {
						t.Errorf("the log claims mutual TLS: %s", line)
					}
				}
				labels := []string{fmt.Sprintf("reporter=%q", tt.reporter), fmt.Sprintf("source_workload_namespace=%q", tt.from.Namespace),
					fmt.Sprintf("destination_workload_namespace=%q", tt.to.Namespace)}
				opened := func(page string, more ...string) float64 {
					return Metric(page, "istio_tcp_connections_opened_total", append(labels, more...)...)
				}
				page := e.Metrics()
				plain := []string{`connection_security_policy="unknown"`, `source_principal="unknown"`, `destination_principal="unknown"`}
				if tt.reporter == "source" {
					if n := opened(page, plain...) - opened(e.metrics, plain...); n != 1 {
						t.Errorf("metric of plaintext grew by %v, want 1", n)
					}
				} else if opened(page, plain...) <= opened(e.metrics, plain...) { // the kubelet's probes are no connections of outsider
					t.Error("metric of plaintext did not grow")
				}
				if n := opened(page, `connection_security_policy="mutual_tls"`); n != 0 {
					t.Errorf("metric of mutual TLS is %v", n)
				}
			})
		}
	}
}

// TestOutsideIsUntouched lets two pods outside the mesh talk across nodes where it runs: their sockets connect to each
// other and to nothing else, and the mesh does not know of it.
func TestOutsideIsUntouched(t *testing.T) {
	m := Shared(t)
	nodes := m.Nodes()
	ns := m.Namespace(t, "untouched")
	pods := ns.Deploy(App{Name: "from", Node: nodes[0]}, App{Name: "to", Node: nodes[1]})
	from, to := pods[0], pods[1]
	for _, p := range pods {
		if got := p.Captured(); got != "" {
			t.Errorf("%s: captured is %q", p, got)
		}
	}
	for _, network := range []string{"tcp4", "tcp6"} {
		t.Run(network, func(t *testing.T) {
			wire := m.Wire(t)
			address, marker := to.Addr(network, EchoPort), "outside-"+ns.Name+network
			a := from.In(t).Talk(network, address.String(), marker)
			if !a.OK() || a.Remote != address.String() || a.Peer != a.Local {
				t.Errorf("%+v", a)
			}
			wire.Stop()
			direct := false
			for _, f := range wire.Contains([]byte(marker)) {
				direct = direct || f.Source.String() == a.Local && f.Destination == address
			}
			if !direct {
				t.Errorf("the marker went by %v, want %s -> %s", wire.Contains([]byte(marker)), a.Local, address)
			}
		})
	}
	for _, node := range nodes {
		for _, p := range pods {
			if lines := accessLines(m.Ztunnel(t, node).Log(), "src.workload="+p.Name); len(lines) > 0 {
				t.Errorf("ztunnel of %s carried something: %s", node, lines)
			}
		}
	}
}
