// SPDX-License-Identifier: Apache-2.0

package proxy

import (
	"bytes"
	"context"
	"crypto/rand"
	"errors"
	"io"
	"log/slog"
	"net"
	"net/netip"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/warren-mesh/warren/mesh"
	"github.com/warren-mesh/warren/mesh/reason"
	"github.com/warren-mesh/warren/ztunnel/hbone"
	"github.com/warren-mesh/warren/ztunnel/inpod"
	"github.com/warren-mesh/warren/ztunnel/metrics"
)

const (
	clientAddr = "10.1.0.1"
	serverAddr = "10.1.0.2"
	serverPort = serverAddr + ":8080"
)

// pair is a client pod on the near node and a server pod on the far one.
func pair(t *testing.T, options ...func(*Config)) (m *testMesh, client, server *testPod) {
	m = newMesh(t, options...)
	return m, m.pod(m.near, "client", clientAddr), m.pod(m.far, "web", serverAddr)
}

func roundTrip(t *testing.T, c *net.TCPConn, say string) {
	t.Helper()
	if _, err := c.Write([]byte(say)); err != nil {
		t.Fatal(err)
	}
	if err := c.CloseWrite(); err != nil {
		t.Fatal(err)
	}
	if got, err := io.ReadAll(c); err != nil || string(got) != say {
		t.Fatalf("got %q, %v, want %q", got, err, say)
	}
}

func TestTunnel(t *testing.T) {
	m, client, _ := pair(t)
	seen := make(chan netip.AddrPort, 1)
	m.serve(serverPort, func(c *net.TCPConn, from netip.AddrPort) {
		seen <- from
		_, _ = io.Copy(c, c)
	})
	c := client.dial(serverPort)
	roundTrip(t, c, "hello")
	src := netip.AddrPortFrom(client.addr, c.LocalAddr().(*net.TCPAddr).AddrPort().Port())
	if got := <-seen; got != src {
		t.Errorf("the application saw %v, want the client's %v", got, src)
	}
	want := map[string]any{"reason": "TUNNEL", "bytes_sent": 5.0, "bytes_recv": 5.0, "src.workload": "client", "dst.workload": "web",
		"src.identity": "spiffe://cluster.local/ns/shop/sa/client", "dst.identity": "spiffe://cluster.local/ns/shop/sa/web",
		"dst.hbone_addr": serverPort, "level": "info"}
	want["direction"] = "outbound"
	trace := m.near.logged(want)["trace_id"]
	want["direction"] = "inbound"
	if far := m.far.logged(want)["trace_id"]; trace == nil || far != trace {
		t.Errorf("trace ids: near %v, far %v", trace, far)
	}
	if n := len(m.near.log.all()) + len(m.far.log.all()); n != 2 {
		t.Errorf("%d records for one connection, want one on each node", n)
	}
	l := metrics.Labels{Reporter: metrics.Destination, Mutual: true, Source: metrics.PeerOf(client.workload, client.workload.Identity()),
		Destination: metrics.PeerOf(m.store.Snapshot().WorkloadByPod("uid-web"), mesh.Identity{TrustDomain: "cluster.local", Namespace: "shop", ServiceAccount: "web"})}
	if s := m.far.metrics.Series(l); s.Opened.Load() != 1 || s.Closed.Load() != 1 || s.Failed.Load() != 0 || s.Sent.Load() != 5 || s.Received.Load() != 5 {
		t.Errorf("series: opened %d closed %d failed %d sent %d received %d", s.Opened.Load(), s.Closed.Load(), s.Failed.Load(), s.Sent.Load(), s.Received.Load())
	}
}

// TestOpenedIsLogged: at level debug, and then only, the access log has a line for each connection that opens.
func TestOpenedIsLogged(t *testing.T) {
	for _, level := range []slog.Level{slog.LevelDebug, slog.LevelInfo} {
		m, client, _ := pair(t, func(c *Config) {
			c.Log = slog.New(slog.NewTextHandler(io.Discard, &slog.HandlerOptions{Level: level}))
		})
		m.echo(serverPort)
		c := live(t, client)
		nodes := map[string]*node{outbound: m.near, inbound: m.far}
		if level == slog.LevelDebug {
			for direction, n := range nodes {
				eventually(t, "the line of a connection that lives", func() bool { return len(n.log.of("connection opened")) == 1 })
				r := n.log.of("connection opened")[0]
				for k, want := range map[string]any{"level": "debug", "scope": "access", "direction": direction, "reason": "TUNNEL", "src.workload": "client", "dst.workload": "web", "duration": nil, "bytes_sent": nil} {
					if r[k] != want {
						t.Errorf("%s: %s is %v, want %v", direction, k, r[k], want)
					}
				}
			}
		}
		roundTrip(t, c, "to the end")
		for _, n := range nodes {
			n.logged(map[string]any{"level": "info"})
			if level == slog.LevelInfo && len(n.log.of("connection opened")) > 0 {
				t.Errorf("%s: an opened connection is logged at level %v", n.name, level)
			}
		}
		wantReset(t, "closed port", client.dial(serverAddr+":8081"))
		m.near.logged(map[string]any{"reason": "PEER_REFUSED"})
		if got, want := len(m.near.log.of("connection opened")), map[slog.Level]int{slog.LevelDebug: 1}[level]; got != want {
			t.Errorf("at level %v, with one that failed: %d lines of opened connections, want %d", level, got, want)
		}
	}
}

func TestTunnelIPv6AndService(t *testing.T) {
	m := newMesh(t)
	client := m.pod(m.near, "client", "fd00::1")
	name := mesh.Name{Namespace: "shop", Name: "web"}
	m.pod(m.near, "web", "fd00::2", func(w *mesh.Workload) { w.Services[name] = mesh.EndpointPorts{80: 8080} })
	m.store.Apply(mesh.PutService{Service: &mesh.Service{Namespace: "shop", Name: "web", Hostname: "web.shop.svc.cluster.local",
		Addresses: []netip.Addr{netip.MustParseAddr("fd00:96::1")}, Ports: []mesh.ServicePort{{Port: 80}}}})
	m.echo("[fd00::2]:8080")
	roundTrip(t, client.dial("[fd00:96::1]:80"), "six")
	m.near.logged(map[string]any{"reason": "SAME_NODE", "direction": "outbound", "dst.service": "web.shop.svc.cluster.local", "dst.addr": "[fd00::2]:8080"})
}

func TestServiceWhoseEndpointIsTheClient(t *testing.T) {
	m := newMesh(t)
	name := mesh.Name{Namespace: "shop", Name: "self"}
	p := m.pod(m.near, "self", clientAddr, func(w *mesh.Workload) { w.Services[name] = mesh.EndpointPorts{80: 8080} })
	m.store.Apply(mesh.PutService{Service: &mesh.Service{Namespace: "shop", Name: "self", Addresses: []netip.Addr{netip.MustParseAddr("10.96.0.1")}, Ports: []mesh.ServicePort{{Port: 80}}}})
	m.echo(clientAddr + ":8080")
	roundTrip(t, p.dial("10.96.0.1:80"), "me")
	m.near.logged(map[string]any{"reason": "SAME_NODE", "direction": "outbound"})
}

func TestServerFirst(t *testing.T) {
	m, client, _ := pair(t)
	m.serve(serverPort, func(c *net.TCPConn, _ netip.AddrPort) { _, _ = io.WriteString(c, "220 ready\n") })
	if got, err := io.ReadAll(client.dial(serverPort)); err != nil || string(got) != "220 ready\n" {
		t.Errorf("got %q, %v", got, err)
	}
}

func TestHalfClose(t *testing.T) {
	t.Run("client first", func(t *testing.T) {
		m, client, _ := pair(t)
		m.serve(serverPort, func(c *net.TCPConn, _ netip.AddrPort) {
			got, _ := io.ReadAll(c) // to its end
			_, _ = c.Write(append(got, " and answered"...))
		})
		c := client.dial(serverPort)
		_, _ = io.WriteString(c, "asked")
		_ = c.CloseWrite()
		if got, err := io.ReadAll(c); err != nil || string(got) != "asked and answered" {
			t.Errorf("got %q, %v", got, err)
		}
		m.near.logged(map[string]any{"level": "info"})
	})
	t.Run("server first", func(t *testing.T) {
		m, client, _ := pair(t)
		got := make(chan string, 1)
		m.serve(serverPort, func(c *net.TCPConn, _ netip.AddrPort) {
			_, _ = io.WriteString(c, "over")
			_ = c.CloseWrite()
			b, _ := io.ReadAll(c)
			got <- string(b)
		})
		c := client.dial(serverPort)
		if b, err := io.ReadAll(c); err != nil || string(b) != "over" {
			t.Fatalf("got %q, %v", b, err)
		}
		_, _ = io.WriteString(c, "late")
		_ = c.Close()
		if s := <-got; s != "late" {
			t.Errorf("the server got %q after its own end, want late", s)
		}
		m.far.logged(map[string]any{"level": "info"})
	})
}

func TestResetTravels(t *testing.T) {
	t.Run("from the client", func(t *testing.T) {
		m, client, _ := pair(t)
		ended := make(chan error, 1)
		m.serve(serverPort, func(c *net.TCPConn, _ netip.AddrPort) {
			_, err := io.Copy(c, c)
			ended <- err
		})
		c := client.dial(serverPort)
		_, _ = io.WriteString(c, "x")
		_, _ = io.ReadFull(c, make([]byte, 1))
		_ = c.SetLinger(0)
		_ = c.Close()
		if err := <-ended; !errors.Is(err, syscall.ECONNRESET) {
			t.Errorf("the server's read ended with %v, want ECONNRESET", err)
		}
		m.near.logged(map[string]any{"reason": "STREAM_RESET", "direction": "outbound", "level": "error"})
		m.far.logged(map[string]any{"reason": "STREAM_RESET", "direction": "inbound", "level": "error"})
	})
	t.Run("from the server", func(t *testing.T) {
		m, client, _ := pair(t)
		m.serve(serverPort, func(c *net.TCPConn, _ netip.AddrPort) {
			_, _ = io.ReadFull(c, make([]byte, 1))
			_ = c.SetLinger(0)
		})
		c := client.dial(serverPort)
		_, _ = io.WriteString(c, "x")
		wantReset(t, "client", c)
	})
}

func TestLostTunnelIsNoEnd(t *testing.T) {
	for _, end := range []struct {
		name string
		kill func(*inpod.Conn)
	}{
		{"reset", func(c *inpod.Conn) { _ = c.Reset() }},
		{"closed in order below TLS", func(c *inpod.Conn) { _ = c.Orderly(); _ = c.CloseWrite() }},
	} {
		t.Run(end.name, func(t *testing.T) {
			m, client, _ := pair(t)
			server := make(chan error, 1)
			m.serve(serverPort, func(c *net.TCPConn, _ netip.AddrPort) {
				_, err := io.Copy(c, c)
				server <- err
			})
			c := client.dial(serverPort)
			_, _ = io.WriteString(c, "x")
			_, _ = io.ReadFull(c, make([]byte, 1))
			m.net.mu.Lock()
			lost := m.net.tunnels[0]
			m.net.mu.Unlock()
			end.kill(lost)
			wantReset(t, "client", c)
			if err := <-server; !errors.Is(err, syscall.ECONNRESET) {
				t.Errorf("the server's read ended with %v, want ECONNRESET", err)
			}
			m.near.logged(map[string]any{"reason": "TUNNEL_LOST"})
			m.far.logged(map[string]any{"reason": "TUNNEL_LOST"})
		})
	}
}

func TestClosedPort(t *testing.T) {
	m, client, _ := pair(t)
	wantReset(t, "client", client.dial(serverPort))
	m.near.logged(map[string]any{"reason": "PEER_REFUSED", "error": "connect refused: http status 503"})
	m.far.logged(map[string]any{"reason": "CONNECT_FAILURE"})
}

func TestIdentityMismatch(t *testing.T) {
	m, client, server := pair(t)
	other := *server.workload
	other.ServiceAccount = "someone-else" // what the snapshot says; its ztunnel has web's certificate
	m.store.Apply(mesh.PutWorkload{Workload: &other})
	m.echo(serverPort)
	wantReset(t, "client", client.dial(serverPort))
	m.near.logged(map[string]any{"reason": "IDENTITY_MISMATCH"})
	m.far.logged(map[string]any{"reason": "TLS_FAILURE"})
}

// TestFurtherName: the log and the metrics tell who the peer proved to be, where a service may be served by others than
// its workloads' own accounts.
func TestFurtherName(t *testing.T) {
	m, client, server := pair(t)
	name := mesh.Name{Namespace: "shop", Name: "web"}
	other := *server.workload
	other.ServiceAccount = "before" // what the snapshot says; its ztunnel has web's certificate
	other.Services = map[mesh.Name]mesh.EndpointPorts{name: {80: 8080}}
	m.store.Apply(mesh.PutWorkload{Workload: &other}, mesh.PutService{Service: &mesh.Service{Namespace: "shop", Name: "web", Hostname: "web.shop.svc.cluster.local",
		Addresses: []netip.Addr{netip.MustParseAddr("10.96.0.1")}, Ports: []mesh.ServicePort{{Port: 80}},
		SubjectAltNames: []string{server.workload.Identity().String()}}})
	m.echo(serverPort)
	for range 2 { // on a new tunnel, and on the pooled one
		roundTrip(t, client.dial("10.96.0.1:80"), "x")
	}
	eventually(t, "two records", func() bool { return len(m.near.log.all()) == 2 })
	for _, r := range m.near.log.all() {
		if r["dst.identity"] != server.workload.Identity().String() {
			t.Errorf("logged %v, want %v", r["dst.identity"], server.workload.Identity())
		}
	}
}

func TestNoCertificate(t *testing.T) {
	m := newMesh(t, func(c *Config) { c.ConnectTimeout = 200 * time.Millisecond })
	m.ca.mute["spiffe://cluster.local/ns/shop/sa/client"] = true
	client := m.pod(m.near, "client", clientAddr)
	m.pod(m.far, "web", serverAddr)
	m.echo(serverPort)
	wantReset(t, "client", client.dial(serverPort))
	m.near.logged(map[string]any{"reason": "NO_CERTIFICATE"})
	if len(m.net.tunnels) != 0 {
		t.Error("a pod without certificate dialled")
	}
}

func TestSilentPeer(t *testing.T) {
	m, client, server := pair(t, func(c *Config) { c.ConnectTimeout = 200 * time.Millisecond })
	m.net.mu.Lock()
	m.net.silent[netip.AddrPortFrom(server.addr, 15008)] = true
	m.net.mu.Unlock()
	wantReset(t, "client", client.dial(serverPort))
	m.near.logged(map[string]any{"reason": "NETWORK_POLICY"})
}

func TestPodsNeverShareATunnel(t *testing.T) {
	m := newMesh(t)
	sameAccount := func(w *mesh.Workload) { w.ServiceAccount = "client" }
	a, b := m.pod(m.near, "a", "10.1.0.11", sameAccount), m.pod(m.near, "b", "10.1.0.12", sameAccount)
	m.pod(m.far, "web", serverAddr)
	m.echo(serverPort)
	for _, p := range []*testPod{a, b, a, b} {
		roundTrip(t, p.dial(serverPort), "x")
	}
	if n := len(m.net.tunnels); n != 2 {
		t.Errorf("two pods of one service account used %d tunnels, want one each", n)
	}
}

// TestNoOpenRelay asks a pod's HBONE listener for everything but the pod.
func TestNoOpenRelay(t *testing.T) {
	m, client, server := pair(t)
	m.pod(m.far, "other", "10.1.0.3")
	m.echo(serverPort)
	m.echo("10.1.0.3:8080")
	for _, bait := range []string{"127.0.0.1:8080", "192.0.2.1:10250", "169.254.169.254:80"} {
		m.echo(bait)
	}
	m.store.Apply(mesh.PutService{Service: &mesh.Service{Namespace: "shop", Name: "other", Hostname: "other.shop.svc.cluster.local", Ports: []mesh.ServicePort{{Port: 80}}}})
	tunnel := client.tunnelTo(server)
	for _, tt := range []struct {
		authority string
		status    int
	}{
		{serverPort, 200},
		{"10.1.0.3:8080", 400},
		{"127.0.0.1:8080", 400},
		{"[::1]:8080", 400},
		{"[::ffff:10.1.0.2]:8080", 400},
		{"192.0.2.1:10250", 400},
		{"169.254.169.254:80", 400},
		{"other.shop.svc.cluster.local:80", 400},
		{"example.com:80", 503},
		{serverAddr + ":15001", 400},
		{serverAddr + ":15006", 400},
		{serverAddr + ":15008", 400},
		{serverAddr + ":8081", 503},
		{serverAddr, 400},
	} {
		s, err := tunnel.Open(t.Context(), hbone.Request{Authority: tt.authority})
		var status *hbone.StatusError
		switch {
		case err == nil && tt.status == 200:
			s.Reset(hbone.CodeCancel)
		case !errors.As(err, &status) || status.Status != tt.status:
			t.Errorf("CONNECT %s: got %v, want status %d", tt.authority, err, tt.status)
		}
	}
}

// TestLongAuthority: what a peer asks for is logged, but not at any length.
func TestLongAuthority(t *testing.T) {
	m, client, server := pair(t)
	_, err := client.tunnelTo(server).Open(t.Context(), hbone.Request{Authority: strings.Repeat("\xff", 15<<10) + ":80"})
	var status *hbone.StatusError
	if !errors.As(err, &status) || status.Status != 400 {
		t.Errorf("got %v, want status 400", err)
	}
	r := m.far.logged(map[string]any{"reason": "BAD_REQUEST"})
	for k, v := range r {
		if s, ok := v.(string); ok && len(s) > 2000 {
			t.Errorf("%s is logged with %d bytes", k, len(s))
		}
	}
}

func TestLargeTransfer(t *testing.T) {
	m, client, _ := pair(t)
	m.echo(serverPort)
	c := client.dial(serverPort)
	sent := make([]byte, 16<<20)
	_, _ = rand.Read(sent)
	go func() {
		_, _ = c.Write(sent)
		_ = c.CloseWrite()
	}()
	if got, err := io.ReadAll(c); err != nil || !bytes.Equal(got, sent) {
		t.Errorf("got %d bytes, %v; want the %d sent", len(got), err, len(sent))
	}
	m.far.logged(map[string]any{"bytes_sent": float64(len(sent)), "bytes_recv": float64(len(sent))})
}

// TestBudgetOfAPod: what waits for slow applications counts against the pod's budget, whichever end opened the tunnel.
func TestBudgetOfAPod(t *testing.T) {
	m, client, server := pair(t)
	m.serve(serverPort, func(c *net.TCPConn, _ netip.AddrPort) {
		_ = c.SetReadBuffer(4 << 10)
		go func() { _, _ = c.Write(make([]byte, 64<<20)) }()
		<-t.Context().Done() // and reads nothing
	})
	c := client.dial(serverPort)
	_ = c.SetReadBuffer(4 << 10)
	go func() { _, _ = c.Write(make([]byte, 64<<20)) }()
	for _, p := range []*testPod{client, server} {
		pd := p.node.proxy.find(p.uid)
		eventually(t, "bytes to wait for "+p.uid, func() bool { return pd.account.budget.Used() > 0 })
	}
	_ = c.SetLinger(0)
	_ = c.Close()
}

func TestLimit(t *testing.T) {
	m, client, server := pair(t, func(c *Config) { c.PodConnections = 1 })
	m.echo(serverPort)
	first := client.dial(serverPort)
	_, _ = io.WriteString(first, "x")
	_, _ = io.ReadFull(first, make([]byte, 1))
	wantReset(t, "second", client.dial(serverPort))
	m.near.logged(map[string]any{"reason": "LIMIT"})
	_ = first.CloseWrite()
	if _, err := io.ReadAll(first); err != nil {
		t.Errorf("the first connection suffered: %v", err)
	}
	eventually(t, "room", func() bool {
		return m.near.proxy.find(client.uid).count() == 0 && m.far.proxy.find(server.uid).count() == 0
	})
	roundTrip(t, client.dial(serverPort), "again")
}

func TestNoOriginalDestination(t *testing.T) {
	m, client, _ := pair(t)
	c, err := m.net.connect(context.Background(), client.outbound, leg{local: netip.AddrPortFrom(client.addr, 15001), remote: netip.AddrPortFrom(client.addr, 0)})
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	wantReset(t, "direct connect to the listener", c)
	eventually(t, "the reason", func() bool {
		return m.near.metrics.Reason(metrics.Source, reason.NoOriginalDestination) == 1
	})
}
