// SPDX-License-Identifier: Apache-2.0

package proxy

import (
	"io"
	"net"
	"net/netip"
	"testing"

	"github.com/prometheus/client_golang/prometheus"
)

// total is the sum of a counter over all its series, as a scrape sees it.
func (n *node) total(name string) (sum float64) {
	n.t.Helper()
	reg := prometheus.NewRegistry()
	reg.MustRegister(n.metrics)
	families, err := reg.Gather()
	if err != nil {
		n.t.Fatal(err)
	}
	for _, f := range families {
		if f.GetName() == name {
			for _, m := range f.GetMetric() {
				sum += m.GetCounter().GetValue()
			}
		}
	}
	return sum
}

// TestBytesOfLiveConnections: what a connection carried is told while it lives, and told once when it has ended.
func TestBytesOfLiveConnections(t *testing.T) {
	const sent, answered = "seven b", "and nine."
	answer := func(c *net.TCPConn) {
		_, _ = io.ReadFull(c, make([]byte, len(sent)))
		_, _ = io.WriteString(c, answered)
		_, _ = io.Copy(io.Discard, c)
	}
	for _, tt := range []struct {
		name, dst string
		dial      func(m *testMesh, client *testPod) (*net.TCPConn, error)
		near      string // direction of the connection on the near node, if it has one
		far       bool
	}{
		{"tunnelled", serverPort, func(_ *testMesh, p *testPod) (*net.TCPConn, error) { return p.dial(serverPort), nil }, outbound, true},
		{"passed through", "192.0.2.1:443", func(_ *testMesh, p *testPod) (*net.TCPConn, error) { return p.dial("192.0.2.1:443"), nil }, outbound, false},
		{"plaintext", serverPort, func(m *testMesh, _ *testPod) (*net.TCPConn, error) { return m.stranger("10.1.0.77", serverPort) }, "", true},
	} {
		t.Run(tt.name, func(t *testing.T) {
			m, client, _ := pair(t)
			m.serve(tt.dst, func(c *net.TCPConn, _ netip.AddrPort) { answer(c) })
			c, err := tt.dial(m, client)
			if err != nil {
				t.Fatal(err)
			}
			_, _ = io.WriteString(c, sent)
			if _, err := io.ReadFull(c, make([]byte, len(answered))); err != nil {
				t.Fatal(err)
			}
			var nodes []*node
			if tt.near != "" {
				nodes = append(nodes, m.near)
			}
			if tt.far {
				nodes = append(nodes, m.far)
			}
			counted := func(n *node) bool {
				return n.total("istio_tcp_received_bytes_total") == float64(len(sent)) && n.total("istio_tcp_sent_bytes_total") == float64(len(answered))
			}
			for _, n := range nodes {
				eventually(t, n.name+" to count what goes", func() bool { return counted(n) && len(carried(n)) == 1 })
				i := carried(n)[0]
				want := [2]uint64{uint64(len(sent)), uint64(len(answered))}
				if i.Direction == inbound {
					want[0], want[1] = want[1], want[0]
				}
				if got := [2]uint64{i.Sent, i.Received}; got != want {
					t.Errorf("%s: a live %s connection has sent and received %v, want %v", n.name, i.Direction, got, want)
				}
			}
			_ = c.CloseWrite()
			if _, err := io.ReadAll(c); err != nil {
				t.Fatal(err)
			}
			for _, n := range nodes {
				eventually(t, "the end", func() bool { return n.total("istio_tcp_connections_closed_total") == 1 })
				if !counted(n) {
					t.Errorf("%s: at the end %v bytes received and %v sent, want %d and %d", n.name,
						n.total("istio_tcp_received_bytes_total"), n.total("istio_tcp_sent_bytes_total"), len(sent), len(answered))
				}
			}
		})
	}
}

// carried are the connections of a node that live.
func carried(n *node) (out []ConnectionInfo) {
	for _, p := range n.proxy.Pods() {
		out = append(append(out, p.Inbound...), p.Outbound...)
	}
	return out
}
