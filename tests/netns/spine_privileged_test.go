// SPDX-License-Identifier: Apache-2.0

package netns

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/warren-mesh/warren/tests/packets"
	"github.com/warren-mesh/warren/tests/testutil"
)

const hbonePort = 15008

// spine is a mesh with a client and two servers in an enrolled namespace, on two nodes.
type spine struct {
	*Mesh
	client, near, far *Pod
}

func newSpine(t *testing.T, o Options) *spine {
	t.Helper()
	m := New(t, o)
	m.Namespace("app", Enrolled())
	s := &spine{
		Mesh:   m,
		client: m.Node("a").Pod("client", In("app"), ServiceAccount("client")),
		near:   m.Node("a").Pod("near", In("app"), ServiceAccount("near"), Labels("app", "near")),
		far:    m.Node("b").Pod("far", In("app"), ServiceAccount("far"), Labels("app", "far")),
	}
	for _, name := range []string{"near", "far"} {
		m.Service(name, "app", map[string]string{"app": name}, TCP(80, 8080))
		m.Service(name+"-bare", "app", map[string]string{"app": name}, TCP(8080, 8080), Headless())
	}
	echo(t, s.near, ":8080")
	echo(t, s.far, ":8080")
	started := time.Now()
	m.Up()
	t.Logf("up and captured in %v", time.Since(started).Round(time.Millisecond))
	return s
}

// TestSpine sends through the whole of Warren: every kind of destination, both families, both distances.
func TestSpine(t *testing.T) {
	testutil.Privileged(t)
	s := newSpine(t, Options{})
	serving := ztunnels(s)
	wire := s.Capture()
	tests := []struct {
		name    string
		from    *Pod
		address func(network string) string
	}{
		{"pod IP, same node", s.client, func(n string) string { return s.near.Addr(n, 8080).String() }},
		{"pod IP, across nodes", s.client, func(n string) string { return s.far.Addr(n, 8080).String() }},
		{"ClusterIP, same node", s.client, func(string) string { return "near:80" }},
		{"ClusterIP, across nodes", s.client, func(string) string { return "far.app.svc.cluster.local:80" }},
		{"headless name, same node", s.client, func(string) string { return "near-bare:8080" }},
		{"headless name, across nodes", s.client, func(string) string { return "far-bare:8080" }},
		{"ClusterIP of oneself", s.near, func(string) string { return "near:80" }},
	}
	const marker = "a-marker-that-must-not-be-on-the-wire"
	for _, tt := range tests {
		for _, network := range []string{"tcp4", "tcp6"} {
			t.Run(tt.name+" "+network, func(t *testing.T) {
				local, seen, err := talk(t, tt.from, network, tt.address(network), marker)
				if err != nil {
					t.Fatal(err)
				}
				if seen != local {
					t.Errorf("the server saw %s, want %s", seen, local)
				}
			})
		}
	}
	t.Run("closed port", func(t *testing.T) {
		for _, p := range []*Pod{s.near, s.far} {
			if _, _, err := talk(t, s.client, "tcp4", p.Addr("tcp4", 9).String(), "x"); !isReset(err) {
				t.Errorf("%s: got %v, want a reset or a refusal", p, err)
			}
		}
	})
	wire.Stop()
	t.Run("the wire", func(t *testing.T) { checkWire(t, wire, s, marker) })
	t.Run("sealed ztunnels served it all", func(t *testing.T) { checkSealed(t, s, serving) })
}

// isReset says whether a connection ended as one that nobody answers: refused, or reset.
func isReset(err error) bool {
	return errors.Is(err, syscall.ECONNREFUSED) || errors.Is(err, syscall.ECONNRESET)
}

// checkWire fails unless everything between pods of the two nodes was TLS on the HBONE port, without the marker.
func checkWire(t *testing.T, wire *packets.Capture, s *spine, marker string) {
	if err := wire.Err(); err != nil {
		t.Error(err)
	}
	if found := wire.Contains([]byte(marker)); len(found) > 0 {
		t.Errorf("plaintext on the wire: %v", found)
	}
	tunnels := 0
	for _, pair := range [][2]netip.Addr{{s.client.IPv4, s.far.IPv4}, {s.client.IPv6, s.far.IPv6}} {
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
			if n > 0 {
				tunnels++
			}
		}
	}
	if tunnels < 4 {
		t.Errorf("saw %d flows with TLS records, want at least one connection for each family; all: %v", tunnels, wire.Flows())
	}
}

// TestServerFirst is a protocol whose server speaks first, while the client waits.
func TestServerFirst(t *testing.T) {
	testutil.Privileged(t)
	s := newSpine(t, Options{})
	l, err := s.far.Listen("tcp", ":2525")
	if err != nil {
		t.Fatal(err)
	}
	go func() {
		c, err := l.Accept()
		if err != nil {
			return
		}
		fmt.Fprint(c, "220 ready\n")
		_, _ = io.Copy(io.Discard, c)
		c.Close()
	}()
	c, err := s.client.Dial(t.Context(), "tcp", s.far.Addr("tcp4", 2525).String())
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	_ = c.SetDeadline(time.Now().Add(10 * time.Second))
	b := make([]byte, 64)
	n, err := c.Read(b)
	if err != nil || string(b[:n]) != "220 ready\n" {
		t.Fatalf("read %q, %v", b[:n], err)
	}
	if err := c.(*net.TCPConn).CloseWrite(); err != nil {
		t.Fatal(err)
	}
	if n, err := c.Read(b); n != 0 || !errors.Is(err, io.EOF) {
		t.Errorf("after the server closed: read %d bytes, %v; want EOF", n, err)
	}
}

// TestOutside talks between the mesh and pods outside it: plaintext both ways, until STRICT.
func TestOutside(t *testing.T) {
	testutil.Privileged(t)
	s := newSpine(t, Options{})
	outsider := s.Node("b").Pod("outsider")
	echo(t, outsider, ":8080")
	wire := s.Capture()
	for _, network := range []string{"tcp4", "tcp6"} {
		for _, way := range []struct {
			name     string
			from, to *Pod
		}{{"into the mesh", outsider, s.near}, {"out of the mesh", s.client, outsider}, {"into the mesh, same node", outsider, s.far}} {
			t.Run(way.name+" "+network, func(t *testing.T) {
				local, seen, err := talk(t, way.from, network, way.to.Addr(network, 8080).String(), "plain-"+network)
				if err != nil {
					t.Fatal(err)
				}
				// Out of the mesh the connection is ztunnel's own, from the pod's address.
				if way.to == outsider {
					local, seen = netip.MustParseAddrPort(local).Addr().String(), netip.MustParseAddrPort(seen).Addr().String()
				}
				if seen != local {
					t.Errorf("the server saw %s, want %s", seen, local)
				}
			})
		}
	}
	wire.Stop()
	if found := wire.Contains([]byte("plain-")); len(found) == 0 {
		t.Errorf("no plaintext on the wire, though one end was outside the mesh: %v", wire.Flows())
	}
	t.Run("strict", func(t *testing.T) {
		s.Strict("app")
		testutil.Eventually(t, 5*time.Second, "the outsider is refused under STRICT", func() bool {
			_, _, err := talk(t, outsider, "tcp4", s.near.Addr("tcp4", 8080).String(), "x")
			return isReset(err) || errors.Is(err, io.EOF)
		})
		if _, _, err := talk(t, s.client, "tcp4", s.far.Addr("tcp4", 8080).String(), "x"); err != nil {
			t.Errorf("inside the mesh: %v", err)
		}
	})
}

// TestAccessLogTellsIdentities reads both ends' logs and metrics after one connection.
func TestAccessLogTellsIdentities(t *testing.T) {
	testutil.Privileged(t)
	s := newSpine(t, Options{})
	if _, _, err := talk(t, s.client, "tcp4", s.far.Addr("tcp4", 8080).String(), "x"); err != nil {
		t.Fatal(err)
	}
	for _, n := range s.Nodes() {
		testutil.Eventually(t, 5*time.Second, "both identities in the access log of node "+n.Name, func() bool {
			out := []byte(n.System.Ztunnel.Output())
			return bytes.Contains(out, []byte("spiffe://cluster.local/ns/app/sa/client")) &&
				bytes.Contains(out, []byte("spiffe://cluster.local/ns/app/sa/far"))
		})
	}
	for _, n := range s.Nodes() {
		body, status, err := n.System.Ztunnel.Pod.Get("http://localhost:15020/metrics")
		if err != nil || status != 200 || !strings.Contains(body, "istio_tcp_connections_opened_total") {
			t.Errorf("metrics of node %s: status %d, %v", n.Name, status, err)
		}
	}
}
