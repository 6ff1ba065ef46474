// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"bytes"
	"fmt"
	"net/netip"
	"testing"

	"github.com/warren-mesh/warren/tests/packets"
)

const hbonePort = 15008

// spine is a client and two servers in an enrolled namespace, one beside the client and one on the other node, each
// with a Service and a headless one.
type spine struct {
	*Mesh
	ns                *Namespace
	client, near, far *Pod
}

func newSpine(t *testing.T, m *Mesh) *spine {
	t.Helper()
	ns := m.Namespace(t, "spine", Enrolled())
	nodes := m.Nodes()
	for _, name := range []string{"near", "far"} {
		ns.Service(Service{Name: name})
		ns.Service(Service{Name: name + "-bare", App: name, Ports: []Port{{EchoPort, EchoPort}}, Headless: true})
	}
	pods := ns.Deploy(App{Name: "client", Node: nodes[0]}, App{Name: "near", Node: nodes[0]}, App{Name: "far", Node: nodes[1]})
	for _, name := range []string{"near", "far"} {
		for _, network := range []string{"tcp4", "tcp6"} {
			pods[0].Reaches(network, name+":80")
		}
	}
	return &spine{m, ns, pods[0], pods[1], pods[2]}
}

// TestSpine sends through the whole of Warren: every kind of destination, both families, both distances.
func TestSpine(t *testing.T) {
	s := newSpine(t, Shared(t))
	wire := s.Wire(t)
	tests := []struct {
		name    string
		from    *Pod
		server  *Pod
		address func(network string) string
	}{
		{"pod IP, same node", s.client, s.near, func(n string) string { return s.near.Addr(n, EchoPort).String() }},
		{"pod IP, across nodes", s.client, s.far, func(n string) string { return s.far.Addr(n, EchoPort).String() }},
		{"ClusterIP, same node", s.client, s.near, func(string) string { return "near:80" }},
		{"ClusterIP, across nodes", s.client, s.far, func(string) string { return "far." + s.ns.Name + ".svc.cluster.local:80" }},
		{"headless name, same node", s.client, s.near, func(string) string { return fmt.Sprint("near-bare:", EchoPort) }},
		{"headless name, across nodes", s.client, s.far, func(string) string { return fmt.Sprint("far-bare:", EchoPort) }},
		{"ClusterIP of oneself", s.near, s.near, func(string) string { return "near:80" }},
	}
	marker := "marker-" + s.ns.Name
	for _, tt := range tests {
		for _, network := range []string{"tcp4", "tcp6"} {
			t.Run(tt.name+" "+network, func(t *testing.T) {
				a := tt.from.In(t).Talk(network, tt.address(network), marker)
				if !a.OK() || a.Pod != tt.server.Name {
					t.Fatalf("got %+v, want an answer of %s", a, tt.server.Name)
				}
				if a.Peer != a.Local {
					t.Errorf("the server saw %s, want %s", a.Peer, a.Local)
				}
			})
		}
	}
	t.Run("closed port", func(t *testing.T) {
		for _, p := range []*Pod{s.near, s.far} {
			if a := s.client.In(t).Talk("tcp4", p.Addr("tcp4", 9).String(), "x"); !a.IsReset() {
				t.Errorf("%s: got %+v, want a reset or a refusal", p, a)
			}
		}
	})
	wire.Stop()
	t.Run("the wire", func(t *testing.T) { s.checkWire(t, wire, marker) })
}

// checkWire fails unless everything between the client and the server on the other node was TLS on the HBONE port,
// without the marker.
func (s *spine) checkWire(t *testing.T, wire *packets.Capture, marker string) {
	t.Helper()
	if err := wire.Err(); err != nil {
		t.Error(err)
	}
	if found := wire.Contains([]byte(marker)); len(found) > 0 {
		t.Errorf("plaintext on the wire: %v", found)
	}
	for _, pair := range [][2]netip.Addr{{s.client.IPv4, s.far.IPv4}, {s.client.IPv6, s.far.IPv6}} {
		tunnels := 0
		for _, f := range wire.Between(pair[0], pair[1]) {
			if f.Source.Port() != hbonePort && f.Destination.Port() != hbonePort {
				t.Errorf("a connection outside the tunnel: %s", f)
				continue
			}
			b := wire.Bytes(f)
			n, err := packets.TLSRecords(b)
			if err != nil {
				t.Errorf("%s: %v", f, err)
			}
			if n > 0 && !bytes.Contains(b, []byte(marker)) {
				tunnels++
			}
		}
		if tunnels < 2 {
			t.Errorf("between %v: saw %d directions with TLS records, want 2 or more; all: %v", pair, tunnels, wire.Between(pair[0], pair[1]))
		}
	}
}
