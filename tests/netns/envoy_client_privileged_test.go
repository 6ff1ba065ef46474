// SPDX-License-Identifier: Apache-2.0

package netns

import (
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/warren-mesh/warren/tests/testutil"
)

// envoyTunnel is a port of Envoy's loopback and where it leads.
type envoyTunnel struct {
	Port               uint16
	Cluster, Authority string
}

// throughEnvoy is the spine with a pod outside the mesh in which Envoy opens tunnels to the server "far", in the
// client's name.
type throughEnvoy struct {
	*spine
	*envoy
	ports map[string]uint16 // by network and the port of far: "tcp4 8080"
}

func newThroughEnvoy(t *testing.T, ports ...uint16) *throughEnvoy {
	t.Helper()
	envoyBinary(t)
	s := newSpine(t, Options{})
	p := s.Node("a").Pod("envoy")
	e := &throughEnvoy{spine: s, ports: map[string]uint16{}}
	data := struct {
		TLS      envoyTLS
		Tunnels  []envoyTunnel
		Clusters []struct{ Name, Address string }
	}{TLS: newEnvoyTLS(t, p, account("app", "client"), account("app", "far"))}
	for _, network := range []string{"tcp4", "tcp6"} {
		data.Clusters = append(data.Clusters, struct{ Name, Address string }{network, s.far.Addr(network, 0).Addr().String()})
		for _, port := range ports {
			at := uint16(20000 + len(e.ports))
			e.ports[fmt.Sprint(network, " ", port)] = at
			data.Tunnels = append(data.Tunnels, envoyTunnel{Port: at, Cluster: network, Authority: s.far.Addr(network, port).String()})
		}
	}
	e.envoy = startEnvoy(t, p, envoyClient, data)
	return e
}

// to is where in Envoy's pod a tunnel to far's port begins.
func (e *throughEnvoy) to(network string, port uint16) string {
	return fmt.Sprint("127.0.0.1:", e.ports[fmt.Sprint(network, " ", port)])
}

// TestEnvoyAsClient has a real Envoy tunnel to a pod of ours.
func TestEnvoyAsClient(t *testing.T) {
	testutil.Privileged(t)
	e := newThroughEnvoy(t, 8080, 7003, 7004, 7005, 7006, 7002, 7009, 9)
	j := journey{e.pod, e.far, e.to}
	heard := count(t, e.far, 7009)
	for _, network := range []string{"tcp4", "tcp6"} {
		t.Run("echo "+network, func(t *testing.T) {
			far := witness(t, e.far.Node)
			_, seen, err := talk(t, e.pod, "tcp", e.to(network, 8080), "through-Envoy")
			if err != nil {
				t.Fatal(err)
			}
			if a, err := netip.ParseAddrPort(seen); err != nil || a.Addr() != e.pod.Addr(network, 0).Addr() {
				t.Errorf("the application saw %s, want Envoy's pod", seen)
			}
			far.ended("destination", "TUNNEL", "src.identity="+account("app", "client").String(), fmt.Sprintf("dst.hbone_addr=%s", e.far.Addr(network, 8080)))
		})
	}
	t.Run("half-close by the client first", func(t *testing.T) { halfCloseClient(t, j) })
	t.Run("half-close by the server first", func(t *testing.T) { halfCloseServer(t, j) })
	t.Run("reset by the client", func(t *testing.T) { resetByClient(t, j) })
	t.Run("reset by the server", func(t *testing.T) { e.resetByServer(t) })
	t.Run("both directions at once", func(t *testing.T) { bothDirections(t, j, int64(scale(128<<20))) })
	t.Run("many streams of one tunnel", func(t *testing.T) { manyStreams(t, e, 150) })
	t.Run("a port where nobody listens", func(t *testing.T) { e.refused(t, 9, "503", "CONNECT_FAILURE") })
	t.Run("policy", func(t *testing.T) {
		e.Apply("apiVersion: security.istio.io/v1\nkind: AuthorizationPolicy\nmetadata: {name: guard, namespace: app}\n" +
			"spec: {action: DENY, rules: [{from: [{source: {principals: [cluster.local/ns/app/sa/client]}}], to: [{operation: {ports: [\"7009\"]}}]}]}\n")
		testutil.Eventually(t, told, "the policy is in force", func() bool {
			_, _, err := end(t, e.client, e.far.Addr("tcp4", 7009).String())
			return isReset(err)
		})
		before := heard.Load()
		e.refused(t, 7009, "401", "POLICY_DENY")
		if now := heard.Load(); now != before {
			t.Errorf("the application accepted %d connections", now-before)
		}
		if _, _, err := talk(t, e.pod, "tcp", e.to("tcp4", 8080), "another-port"); err != nil {
			t.Error(err)
		}
	})
	// Before the drain: that Envoy itself closes a tunnel as soon as it is told to leave it counts as a fault, too.
	if f := e.faults(); len(f) > 0 {
		t.Errorf("Envoy found fault with ztunnel: %v", f)
	}
	t.Run("drain", func(t *testing.T) { e.drained(t) })
}

// resetByServer wants Envoy to be told of the server's reset. Its own client it tells nothing but an end: tcp_proxy
// closes in order whatever became of the tunnel.
func (e *throughEnvoy) resetByServer(t *testing.T) {
	const resets = "cluster.tcp6.http2.rx_reset"
	before := e.stat(resets)
	serve(t, e.far, ":7006", func(c *net.TCPConn) {
		_, _ = c.Read(make([]byte, 1))
		_ = c.SetLinger(0)
	})
	c := dial(t, e.pod, "tcp", e.to("tcp6", 7006), 10*time.Second)
	defer c.Close()
	_, _ = c.Write([]byte("x"))
	if err := ending(c, 10*time.Second); err != nil && !isReset(err) {
		t.Errorf("the client saw %v, want the end", err)
	}
	if got := e.stat(resets) - before; got != 1 {
		t.Errorf("Envoy was told of %d resets, want one", got)
	}
}

// refused wants Envoy to be told a status for a port, and its client to get nothing.
func (e *throughEnvoy) refused(t *testing.T, port uint16, status, reason string) {
	t.Helper()
	for _, network := range []string{"tcp4", "tcp6"} {
		far := witness(t, e.far.Node)
		c := dial(t, e.pod, "tcp", e.to(network, port), 10*time.Second)
		if b, err := io.ReadAll(c); len(b) > 0 || errors.Is(err, os.ErrDeadlineExceeded) {
			t.Errorf("read %q, %v", b, err)
		}
		c.Close()
		far.ended("destination", reason, fmt.Sprintf("dst.hbone_addr=%s", e.far.Addr(network, port)), "bytes_sent=0", "bytes_recv=0")
		line := fmt.Sprintf("ended port=%d flags=UF,URX answer={\"headers\":[{\"key\":\":status\",\"value\":\"%s\"}]}\n", e.ports[fmt.Sprint(network, " ", port)], status)
		testutil.Eventually(t, told, "Envoy logs "+line, func() bool { return strings.Contains(e.output(), line) })
	}
}

// manyStreams holds n connections that Envoy puts on the tunnel that is open already.
func manyStreams(t *testing.T, e *throughEnvoy, n int) {
	const tunnels = "cluster.tcp6.upstream_cx_total"
	before := e.stat(tunnels)
	var held []*net.TCPConn
	for range n {
		held = append(held, openEcho(t, e.pod, "tcp", e.to("tcp6", 8080)))
	}
	for i, c := range held {
		if err := ping(c, fmt.Sprint("stream ", i)); err != nil {
			t.Errorf("stream %d: %v", i, err)
		}
	}
	if now := e.stat(tunnels); now != before || before != 1 {
		t.Errorf("Envoy had %d tunnels before, %d after, want one", before, now)
	}
	for _, c := range held {
		_ = c.CloseWrite()
		if err := ending(c, 10*time.Second); err != nil {
			t.Error(err)
		}
		c.Close()
	}
}

// drained ends the server's ztunnel while Envoy has a stream on it: the stream lives until it ends, what comes later
// goes to the next ztunnel.
func (e *throughEnvoy) drained(t *testing.T) {
	ztunnel := e.far.Node.System.Ztunnel
	live := openEcho(t, e.pod, "tcp", e.to("tcp4", 8080))
	defer live.Close()
	const goAways = "cluster.tcp4.upstream_cx_close_notify"
	before := e.stat(goAways)
	stopped := make(chan error, 1)
	go func() { stopped <- ztunnel.Stop(20 * time.Second) }()
	testutil.Eventually(t, told, "Envoy hears that its tunnel goes away", func() bool { return e.stat(goAways) > before })
	if err := ping(live, "while draining"); err != nil {
		t.Errorf("the live stream: %v", err)
	}
	_ = live.CloseWrite()
	if err := ending(live, 10*time.Second); err != nil {
		t.Errorf("the live stream ended with %v", err)
	}
	if err := <-stopped; err != nil {
		t.Fatal(err)
	}
	if err := ztunnel.Start(); err != nil {
		t.Fatal(err)
	}
	if _, _, err := talk(t, e.pod, "tcp", e.to("tcp4", 8080), "to-the-next"); err != nil {
		t.Errorf("after the drain: %v", err)
	}
}
