// SPDX-License-Identifier: Apache-2.0

package netns

import (
	"fmt"
	"net"
	"testing"
	"time"

	"github.com/warren-mesh/warren/tests/testutil"
)

// envoyPort is a port of the pod that Envoy connects tunnels to.
type envoyPort struct {
	Port    uint16
	Longest string // a stream's life; "": no limit
}

// envoyPorts are those that the tests below serve, and one where nobody listens.
var envoyPorts = []envoyPort{{Port: 8080}, {Port: 2525}, {Port: 7002}, {Port: 7003}, {Port: 7004}, {Port: 7005}, {Port: 7006}, {Port: 9}, {Port: 7010, Longest: "0.2s"}}

// servedByEnvoy makes a pod that is captured as far as the mesh knows, but on its node runs nothing of Warren: Envoy
// serves its HBONE port. maxStreams bounds the streams of a tunnel; 0 is Envoy's default.
func servedByEnvoy(t *testing.T, s *spine, name string, maxStreams int) (*Pod, *envoy) {
	t.Helper()
	n := s.Node("c")
	if n.Token() == "" {
		if _, err := n.token(); err != nil {
			t.Fatal(err)
		}
	}
	p := n.Pod(name, In("app"), ServiceAccount(name))
	echo(t, p, ":8080")
	data := struct {
		TLS        envoyTLS
		Ports      []envoyPort
		MaxStreams int
	}{newEnvoyTLS(t, p, account("app", name), account("app", "client")), envoyPorts, maxStreams}
	e := startEnvoy(t, p, envoyServer, data)
	publishCaptured(t, p)
	return p, e
}

const (
	envoyDrain   = 100 * time.Millisecond // drain_timeout in its configuration
	envoyTunnels = "http.hbone.downstream_cx_total"
	envoyStreams = "http.hbone.downstream_rq_total"
)

// TestEnvoyAsServer has our ztunnel tunnel to a real Envoy.
func TestEnvoyAsServer(t *testing.T) {
	testutil.Privileged(t)
	envoyBinary(t)
	s := newSpine(t, Options{})
	p, e := servedByEnvoy(t, s, "envoy", 0)
	j := direct(s.client, p)
	for _, network := range []string{"tcp4", "tcp6"} {
		t.Run("echo "+network, func(t *testing.T) {
			a, before := witness(t, s.client.Node), e.stat(envoyStreams)
			if _, _, err := talk(t, s.client, network, p.Addr(network, 8080).String(), "to-Envoy"); err != nil {
				t.Fatal(err)
			}
			a.ended("source", "TUNNEL", "src.workload=client", "dst.identity="+account("app", "envoy").String(), fmt.Sprintf("dst.hbone_addr=%s", p.Addr(network, 8080)))
			if now := e.stat(envoyStreams); now != before+1 {
				t.Errorf("Envoy served %d streams, want one", now-before)
			}
		})
	}
	t.Run("the server speaks first", func(t *testing.T) { serverFirst(t, j) })
	t.Run("half-close by the client first", func(t *testing.T) { halfCloseClient(t, j) })
	t.Run("the server ends first", func(t *testing.T) { serverEndsFirst(t, j) })
	t.Run("reset by the client", func(t *testing.T) { resetThroughEnvoy(t, j, e) })
	t.Run("reset by the server", func(t *testing.T) { resetByServer(t, j) })
	t.Run("both directions at once", func(t *testing.T) { bothDirections(t, j, int64(scale(128<<20))) })
	t.Run("a stream that Envoy breaks", func(t *testing.T) { brokenStream(t, j) })
	for name, port := range map[string]uint16{"a port where nobody listens": 9, "an authority without a route": 10} {
		t.Run(name, func(t *testing.T) {
			a := witness(t, s.client.Node)
			if _, _, err := end(t, s.client, p.Addr("tcp6", port).String()); !isReset(err) {
				t.Errorf("the application saw %v, want a reset", err)
			}
			a.ended("source", "PEER_REFUSED", "src.workload=client", fmt.Sprintf("dst.hbone_addr=%s", p.Addr("tcp6", port)))
		})
	}
	if f := e.faults(); len(f) > 0 {
		t.Errorf("Envoy found fault with ztunnel: %v", f)
	}
	t.Run("Envoy leaves its tunnels", func(t *testing.T) { envoyLeaves(t, j, e) })
	t.Run("Envoy is killed", func(t *testing.T) { envoyDies(t, j, e) })
}

// TestEnvoyAllowsFewStreams opens many connections at once to an Envoy that takes three on a tunnel.
func TestEnvoyAllowsFewStreams(t *testing.T) {
	testutil.Privileged(t)
	envoyBinary(t)
	s := newSpine(t, Options{})
	const n, most = 20, 3
	p, e := servedByEnvoy(t, s, "narrow", most)
	conns := make(chan *net.TCPConn, n)
	for i := range n {
		go func() {
			network := []string{"tcp4", "tcp6"}[i%2]
			c, err := s.client.Dial(t.Context(), network, p.Addr(network, 8080).String())
			if err != nil {
				t.Errorf("connection %d: %v", i, err)
				conns <- nil
				return
			}
			_ = c.SetReadDeadline(time.Now().Add(10 * time.Second))
			for b := []byte{0}; b[0] != '\n' && err == nil; {
				_, err = c.Read(b)
			}
			if err != nil {
				t.Errorf("connection %d: greeting: %v", i, err)
			}
			conns <- c.(*net.TCPConn)
		}()
	}
	var held []*net.TCPConn
	for range n {
		if c := <-conns; c != nil {
			held = append(held, c)
		}
	}
	for i, c := range held {
		if err := ping(c, fmt.Sprint("stream ", i)); err != nil {
			t.Errorf("stream %d: %v", i, err)
		}
	}
	// Half of the connections are of each family: four tunnels at least for each.
	if got := e.stat("http.hbone.downstream_cx_active"); got < 2*(n/2+most-1)/most || got > n {
		t.Errorf("Envoy has %d tunnels for %d streams", got, n)
	}
	for _, c := range held {
		_ = c.CloseWrite()
		if err := ending(c, 10*time.Second); err != nil {
			t.Error(err)
		}
		c.Close()
	}
	if f := e.faults(); len(f) > 0 {
		t.Errorf("Envoy found fault with ztunnel: %v", f)
	}
}
