// SPDX-License-Identifier: Apache-2.0

package proxy

import (
	"bytes"
	"context"
	"crypto/rand"
	"errors"
	"io"
	"net"
	"net/netip"
	"syscall"
	"testing"
	"time"

	"github.com/warren-mesh/warren/mesh"
	"github.com/warren-mesh/warren/mesh/reason"
	"github.com/warren-mesh/warren/ztunnel/inpod"
	"github.com/warren-mesh/warren/ztunnel/metrics"
	"github.com/warren-mesh/warren/ztunnel/route"
)

// neighbours are a client pod and a server pod on the near node.
func neighbours(t *testing.T, options ...func(*Config)) (m *testMesh, client, server *testPod) {
	m = newMesh(t, options...)
	return m, m.pod(m.near, "client", clientAddr), m.pod(m.near, "web", serverAddr)
}

// dialled are the connections to port 15008 so far.
func (m *testMesh) dialled() []*inpod.Conn {
	m.net.mu.Lock()
	defer m.net.mu.Unlock()
	return append([]*inpod.Conn(nil), m.net.tunnels...)
}

// inside waits for both records of a connection that did not leave the process.
func (m *testMesh) inside(outbound, inbound reason.Reason) (source, destination map[string]any) {
	m.t.Helper()
	source = m.near.logged(map[string]any{"direction": "outbound", "reason": outbound.String()})
	destination = m.near.logged(map[string]any{"direction": "inbound", "reason": inbound.String()})
	for _, r := range []map[string]any{source, destination} {
		if r["dst.hbone_addr"] != nil {
			m.t.Errorf("a connection inside the process is logged with a tunnel: %v", r)
		}
	}
	return source, destination
}

func TestSameNode(t *testing.T) {
	m, client, server := neighbours(t)
	seen := make(chan netip.AddrPort, 1)
	m.serve(serverPort, func(c *net.TCPConn, from netip.AddrPort) {
		seen <- from
		_, _ = io.Copy(c, c)
	})
	var c *net.TCPConn
	for range 3 {
		c = client.dial(serverPort)
		roundTrip(t, c, "hello")
		src := netip.AddrPortFrom(client.addr, c.LocalAddr().(*net.TCPAddr).AddrPort().Port())
		if got := <-seen; got != src {
			t.Errorf("the application saw %v, want the client's %v", got, src)
		}
	}
	eventually(t, "six records", func() bool { return len(m.near.log.all()) == 6 })
	source, destination := m.inside(reason.SameNode, reason.SameNode)
	for _, r := range []map[string]any{source, destination} {
		for k, want := range map[string]any{"src.identity": client.workload.Identity().String(), "dst.identity": server.workload.Identity().String(),
			"src.workload": "client", "dst.workload": "web", "dst.addr": serverPort, "bytes_sent": 5.0, "bytes_recv": 5.0, "level": "info",
			"trace_id": source["trace_id"]} {
			if r[k] != want {
				t.Errorf("%s: %s is %v, want %v", r["direction"], k, r[k], want)
			}
		}
	}
	if n := len(m.dialled()); n != 1 {
		t.Errorf("%d connections to port 15008 for one pair of pods, want its one witness", n)
	}
	for _, side := range []metrics.Reporter{metrics.Source, metrics.Destination} {
		if n := m.near.metrics.Reason(side, reason.SameNode); n != 3 {
			t.Errorf("%v counted %d as SAME_NODE, want 3", side, n)
		}
	}
}

func TestSameNodeIsJudged(t *testing.T) {
	t.Run("refused by policy", func(t *testing.T) {
		m, client, _ := neighbours(t)
		m.echo(serverPort)
		m.store.Apply(mesh.PutPolicy{Policy: denyAll()})
		wantReset(t, "client", client.dial(serverPort))
		m.inside(reason.PeerRefused, reason.PolicyDeny)
	})
	t.Run("by the client's identity", func(t *testing.T) {
		m, client, _ := neighbours(t)
		m.echo(serverPort)
		other := m.pod(m.near, "other", "10.1.0.3")
		m.store.Apply(mesh.PutPolicy{Policy: &mesh.Policy{Name: mesh.Name{Namespace: "shop", Name: "client"}, Scope: mesh.ScopeNamespace, Action: mesh.Allow,
			Rules: []mesh.Rule{{Clauses: []mesh.Clause{{Matches: []mesh.Match{{Principals: []mesh.StringMatch{{Kind: mesh.MatchExact, Value: "cluster.local/ns/shop/sa/client"}}}}}}}}}})
		roundTrip(t, client.dial(serverPort), "mine")
		wantReset(t, "other", other.dial(serverPort))
		m.inside(reason.PeerRefused, reason.PolicyNoAllow)
	})
	t.Run("as mutual TLS under STRICT", func(t *testing.T) {
		m, client, _ := neighbours(t)
		m.echo(serverPort)
		m.store.Apply(mesh.PutPolicy{Policy: strict(mesh.Deny)})
		roundTrip(t, client.dial(serverPort), "x")
		m.inside(reason.SameNode, reason.SameNode)
	})
	t.Run("and again when policy changes", func(t *testing.T) {
		m, client, _ := neighbours(t)
		m.echo(serverPort)
		c := live(t, client)
		m.store.Apply(mesh.PutPolicy{Policy: denyAll()})
		wantReset(t, "client", c)
		m.inside(reason.PolicyChanged, reason.PolicyChanged)
	})
}

// TestSameNodeNeedsCertificates: an identity is what the authority certified, also where no handshake shows it.
func TestSameNodeNeedsCertificates(t *testing.T) {
	for _, mute := range []string{"client", "web"} {
		t.Run("none for "+mute, func(t *testing.T) {
			m := newMesh(t, func(c *Config) { c.ConnectTimeout = 200 * time.Millisecond })
			m.ca.mute["spiffe://cluster.local/ns/shop/sa/"+mute] = true
			client := m.pod(m.near, "client", clientAddr)
			m.pod(m.near, "web", serverAddr)
			m.echo(serverPort)
			wantReset(t, "client", client.dial(serverPort))
			m.near.logged(map[string]any{"direction": "outbound", "reason": "NO_CERTIFICATE"})
			if len(m.dialled()) != 0 {
				t.Error("it dialled")
			}
		})
	}
	t.Run("another than expected", func(t *testing.T) {
		m, client, server := neighbours(t)
		other := *server.workload
		other.ServiceAccount = "someone-else" // what the snapshot says; the pod's is web
		m.store.Apply(mesh.PutWorkload{Workload: &other})
		m.echo(serverPort)
		wantReset(t, "client", client.dial(serverPort))
		m.near.logged(map[string]any{"direction": "outbound", "reason": "IDENTITY_MISMATCH"})
	})
}

// TestSameNodeTrustIsTakenBack: a connection that was proven by a root ends with it, like a tunnel.
func TestSameNodeTrustIsTakenBack(t *testing.T) {
	m := newMesh(t)
	m.ca.ttl = 30 * time.Second
	client := m.pod(m.near, "client", clientAddr)
	m.pod(m.near, "web", serverAddr)
	m.echo(serverPort)
	old := live(t, client)
	next := newAuthority(t)
	m.trust(next, m.ca)
	m.moved(next)
	alive(t, old)
	young := live(t, client)
	m.trust(next)
	wantReset(t, "client", old)
	m.inside(reason.PolicyChanged, reason.PolicyChanged)
	alive(t, young)
}

// TestSameNodeTLS: the operator may want TLS between pods of one node too. What lives goes on.
func TestSameNodeTLS(t *testing.T) {
	m, client, _ := neighbours(t)
	m.echo(serverPort)
	c := live(t, client)
	cfg := *m.store.Snapshot().Config()
	cfg.SameNodeTLS = true
	m.store.Apply(mesh.PutConfig{Config: &cfg})
	roundTrip(t, client.dial(serverPort), "x")
	m.near.logged(map[string]any{"direction": "outbound", "reason": "SAME_NODE", "dst.hbone_addr": serverPort})
	m.near.logged(map[string]any{"direction": "inbound", "reason": "TUNNEL", "dst.hbone_addr": serverPort})
	if n := len(m.dialled()); n != 2 {
		t.Errorf("%d connections to port 15008, want a witness and a tunnel", n)
	}
	roundTrip(t, c, "to its end")
	for _, direction := range []string{"outbound", "inbound"} {
		m.near.logged(map[string]any{"direction": direction, "reason": "SAME_NODE", "dst.addr": serverPort})
	}
}

// TestOnlyOwnPodsAreLocal: what the snapshot says of node and uid makes no pod one of this process.
func TestOnlyOwnPodsAreLocal(t *testing.T) {
	m := newMesh(t)
	client := m.pod(m.near, "client", clientAddr)
	m.pod(m.far, "web", serverAddr, func(w *mesh.Workload) { w.Node = "near" })
	m.echo(serverPort)
	roundTrip(t, client.dial(serverPort), "x")
	m.near.logged(map[string]any{"direction": "outbound", "reason": "SAME_NODE", "dst.hbone_addr": serverPort})
	m.far.logged(map[string]any{"direction": "inbound", "reason": "TUNNEL"})
}

// TestWitnessElsewhere: two ztunnels serve the pods of a node for a while. What another one accepts goes by HBONE.
func TestWitnessElsewhere(t *testing.T) {
	m, client, server := neighbours(t, func(c *Config) { c.claimWait, c.elsewhere = 50*time.Millisecond, 300*time.Millisecond })
	m.echo(serverPort)
	after := m.far.proxy // serves the same pod, and is the one that accepts
	tunnels := m.net.listen(t, netip.AddrPortFrom(server.addr, 15008))
	after.listen(server.uid, inpod.HBONE, podListener{tunnels, m.net, false})
	m.far.sockets.mu.Lock()
	m.far.sockets.pods[server.uid] = server.addr
	m.far.sockets.mu.Unlock()
	after.Add(server.uid, "shop", "web", "web")
	for range 2 {
		roundTrip(t, client.dial(serverPort), "x")
	}
	m.near.logged(map[string]any{"direction": "outbound", "reason": "SAME_NODE", "dst.hbone_addr": serverPort})
	m.far.logged(map[string]any{"direction": "inbound", "reason": "TUNNEL"})
	if n := len(m.dialled()); n != 2 {
		t.Errorf("%d connections to port 15008 for two of one pair, want a witness and a tunnel", n)
	}
	for _, r := range m.far.log.all() {
		if r["reason"] != "TUNNEL" {
			t.Errorf("the other ztunnel minds a witness: %v", r)
		}
	}
	eventually(t, "another witness to be tried", func() bool {
		roundTrip(t, client.dial(serverPort), "x")
		time.Sleep(20 * time.Millisecond)
		return len(m.dialled()) == 3
	})
}

func TestWitness(t *testing.T) {
	t.Run("refused", func(t *testing.T) {
		m, client, _ := neighbours(t)
		m.echo(serverPort)
		m.net.mu.Lock()
		delete(m.net.listeners, netip.MustParseAddrPort(serverAddr+":15008"))
		m.net.mu.Unlock()
		wantReset(t, "client", client.dial(serverPort))
		m.near.logged(map[string]any{"direction": "outbound", "reason": "CONNECT_FAILURE"})
	})
	t.Run("silent", func(t *testing.T) {
		m, client, server := neighbours(t, func(c *Config) { c.ConnectTimeout = 200 * time.Millisecond })
		m.echo(serverPort)
		m.net.mu.Lock()
		m.net.silent[netip.AddrPortFrom(server.addr, 15008)] = true
		m.net.mu.Unlock()
		wantReset(t, "client", client.dial(serverPort))
		m.near.logged(map[string]any{"direction": "outbound", "reason": "NETWORK_POLICY"})
	})
	t.Run("up before the application hears", func(t *testing.T) {
		m, client, server := neighbours(t)
		heard := make(chan struct{}, 1)
		m.serve(serverPort, func(c *net.TCPConn, _ netip.AddrPort) {
			heard <- struct{}{}
			_, _ = io.Copy(c, c)
		})
		h := m.net.hold(netip.AddrPortFrom(server.addr, 15008))
		c := client.dial(serverPort)
		<-h.begun
		_, _ = io.WriteString(c, "x")
		select {
		case <-heard:
			t.Error("the application heard of a connection without a witness")
		case <-time.After(50 * time.Millisecond):
		}
		close(h.release)
		if _, err := io.ReadFull(c, make([]byte, 1)); err != nil {
			t.Error(err)
		}
	})
	t.Run("breaks", func(t *testing.T) {
		m, client, _ := neighbours(t)
		ended := make(chan error, 2)
		m.serve(serverPort, func(c *net.TCPConn, _ netip.AddrPort) {
			_, err := io.Copy(c, c)
			ended <- err
		})
		a, b := live(t, client), live(t, client)
		_ = m.dialled()[0].Reset()
		for _, c := range []net.Conn{a, b} {
			wantReset(t, "client", c)
			if err := <-ended; !errors.Is(err, syscall.ECONNRESET) {
				t.Errorf("the server's read ended with %v, want ECONNRESET", err)
			}
		}
		m.inside(reason.NetworkPolicy, reason.NetworkPolicy)
		roundTrip(t, client.dial(serverPort), "by another one")
		if n := len(m.dialled()); n != 2 {
			t.Errorf("%d connections to port 15008, want two witnesses", n)
		}
	})
	t.Run("closed when idle", func(t *testing.T) {
		m, client, _ := neighbours(t, func(c *Config) { c.witnessIdle = 20 * time.Millisecond })
		m.echo(serverPort)
		c := live(t, client)
		time.Sleep(100 * time.Millisecond) // it is needed
		roundTrip(t, c, "x")
		ws := m.near.proxy.witnesses
		eventually(t, "the witness to go", func() bool {
			ws.mu.Lock()
			defer ws.mu.Unlock()
			return len(ws.pairs) == 0 && len(ws.ends) == 0
		})
		roundTrip(t, client.dial(serverPort), "by another one")
		if n := len(m.dialled()); n != 2 {
			t.Errorf("%d connections to port 15008, want two witnesses", n)
		}
	})
	t.Run("one for each pair of pods", func(t *testing.T) {
		m, client, _ := neighbours(t)
		other := m.pod(m.near, "other", "10.1.0.3")
		m.echo(serverPort)
		for _, p := range []*testPod{client, other, client, other} {
			roundTrip(t, p.dial(serverPort), "x")
		}
		if n := len(m.dialled()); n != 2 {
			t.Errorf("%d connections to port 15008 for two pairs of pods, want two", n)
		}
	})
	t.Run("nobody else's", func(t *testing.T) { // who comes from the pod's address while a witness is on its way is no witness
		m, client, server := neighbours(t)
		m.echo(serverPort)
		h := m.net.hold(netip.AddrPortFrom(server.addr, 15008))
		c := client.dial(serverPort)
		<-h.begun
		stranger, err := m.stranger(clientAddr, serverAddr+":15008")
		if err != nil {
			t.Fatal(err)
		}
		_, _ = io.WriteString(stranger, "GET / HTTP/1.1\r\n\r\n")
		close(h.release)
		roundTrip(t, c, "x")
		m.near.logged(map[string]any{"direction": "inbound", "reason": "TLS_FAILURE"})
	})
}

// TestSameNodeOfAnotherStay: a pod that left and came back while a connection to it waited is not the one it was for;
// what is carried to a pod that is on no list any more, no policy would end.
func TestSameNodeOfAnotherStay(t *testing.T) {
	m, client, server := neighbours(t)
	m.echo(serverPort)
	p := m.near.proxy
	d := route.Decide(m.store.Snapshot(), route.Query{SourcePod: client.uid, Source: client.workload, Destination: netip.MustParseAddrPort(serverPort), SameNode: "near"})
	there, stay := p.local(d)
	if there == nil {
		t.Fatalf("%+v is not local", d)
	}
	p.Delete(server.uid)
	p.settle(context.Background(), there, errLeft)
	m.pod(m.near, "web", serverAddr)

	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	raw, err := net.Dial("tcp", l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	app, err := inpod.NewConn(raw.(*net.TCPConn), true, netip.MustParseAddrPort(serverPort), netip.AddrPortFrom(client.addr, 40000))
	if err != nil {
		t.Fatal(err)
	}
	pd := p.find(client.uid)
	c, err := p.begin(pd.life, pd, metrics.Source, facts{direction: outbound, src: app.RemoteAddrPort()}, tcpSide{app, &pd.account})
	if err != nil {
		t.Fatal(err)
	}
	ended := make(chan error, 1)
	go func() {
		r, err := c.carryInside(app, client.workload, d, there, stay)
		if err == nil {
			p.enter()
			r.run(p)
		}
		ended <- err
	}()
	select {
	case err := <-ended:
		if err == nil {
			t.Error("it was carried")
		}
		c.finish(err)
	case <-time.After(5 * time.Second):
		t.Error("it is carried, to a pod that nobody knows")
		c.cancel(errLeft)
		c.finish(<-ended)
	}
}

func TestSameNodePodsGo(t *testing.T) {
	for _, gone := range []string{"client", "web"} {
		t.Run(gone, func(t *testing.T) {
			m, client, _ := neighbours(t)
			ended := make(chan error, 1)
			m.serve(serverPort, func(c *net.TCPConn, _ netip.AddrPort) {
				_, err := io.Copy(c, c)
				ended <- err
			})
			c := live(t, client)
			m.near.sockets.events <- inpod.Event{Pod: "uid-" + gone, Gone: true}
			wantReset(t, "client", c)
			if err := <-ended; !errors.Is(err, syscall.ECONNRESET) {
				t.Errorf("the server's read ended with %v, want ECONNRESET", err)
			}
			m.inside(reason.Drained, reason.Drained)
			ws := m.near.proxy.witnesses
			eventually(t, "the witness to go", func() bool {
				ws.mu.Lock()
				defer ws.mu.Unlock()
				return len(ws.pairs) == 0
			})
		})
	}
}

func TestSameNodeDrains(t *testing.T) {
	m, client, server := neighbours(t)
	m.echo(serverPort)
	c := live(t, client)
	m.near.sockets.events <- inpod.Event{Pod: server.uid, Draining: true}
	eventually(t, "the pod to leave", func() bool {
		pd := m.near.proxy.find(server.uid)
		pd.mu.Lock()
		defer pd.mu.Unlock()
		return pd.leaving != nil
	})
	alive(t, c)
	alive(t, live(t, client)) // by a tunnel, as from another node
	m.near.stop()
	alive(t, c)
	roundTrip(t, c, "to the end")
}

func TestSameNodeEndings(t *testing.T) {
	t.Run("closed port", func(t *testing.T) {
		m, client, _ := neighbours(t)
		wantReset(t, "client", client.dial(serverPort))
		m.inside(reason.PeerRefused, reason.ConnectFailure)
	})
	t.Run("server first", func(t *testing.T) {
		m, client, _ := neighbours(t)
		m.serve(serverPort, func(c *net.TCPConn, _ netip.AddrPort) { _, _ = io.WriteString(c, "220 ready\n") })
		if got, err := io.ReadAll(client.dial(serverPort)); err != nil || string(got) != "220 ready\n" {
			t.Errorf("got %q, %v", got, err)
		}
	})
	t.Run("half-close", func(t *testing.T) {
		m, client, _ := neighbours(t)
		m.serve(serverPort, func(c *net.TCPConn, _ netip.AddrPort) {
			_, _ = io.WriteString(c, "over")
			_ = c.CloseWrite()
			got, _ := io.ReadAll(c)
			if string(got) != "late" {
				t.Errorf("the server got %q after its own end, want late", got)
			}
		})
		c := client.dial(serverPort)
		if b, err := io.ReadAll(c); err != nil || string(b) != "over" {
			t.Fatalf("got %q, %v", b, err)
		}
		_, _ = io.WriteString(c, "late")
		_ = c.Close()
		m.inside(reason.SameNode, reason.SameNode)
	})
	t.Run("reset by the server", func(t *testing.T) {
		m, client, _ := neighbours(t)
		m.serve(serverPort, func(c *net.TCPConn, _ netip.AddrPort) {
			_, _ = io.ReadFull(c, make([]byte, 1))
			_ = c.SetLinger(0)
		})
		c := client.dial(serverPort)
		_, _ = io.WriteString(c, "x")
		wantReset(t, "client", c)
		m.inside(reason.StreamReset, reason.StreamReset)
	})
	t.Run("reset by the client", func(t *testing.T) {
		m, client, _ := neighbours(t)
		ended := make(chan error, 1)
		m.serve(serverPort, func(c *net.TCPConn, _ netip.AddrPort) {
			_, err := io.Copy(c, c)
			ended <- err
		})
		c := live(t, client)
		_ = c.SetLinger(0)
		_ = c.Close()
		if err := <-ended; !errors.Is(err, syscall.ECONNRESET) {
			t.Errorf("the server's read ended with %v, want ECONNRESET", err)
		}
		m.inside(reason.StreamReset, reason.StreamReset)
	})
	t.Run("large", func(t *testing.T) {
		m, client, _ := neighbours(t)
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
		source, destination := m.inside(reason.SameNode, reason.SameNode)
		for _, r := range []map[string]any{source, destination} {
			if r["bytes_sent"] != float64(len(sent)) || r["bytes_recv"] != float64(len(sent)) {
				t.Errorf("%v: sent %v, received %v", r["direction"], r["bytes_sent"], r["bytes_recv"])
			}
		}
	})
	t.Run("limit of the destination", func(t *testing.T) {
		m := newMesh(t, func(c *Config) { c.PodConnections = 1 })
		a, b := m.pod(m.near, "a", "10.1.0.11"), m.pod(m.near, "b", "10.1.0.12")
		m.pod(m.near, "web", serverAddr)
		m.echo(serverPort)
		c := live(t, a)
		wantReset(t, "second", b.dial(serverPort))
		m.inside(reason.PeerRefused, reason.Limit)
		roundTrip(t, c, "the first goes on")
	})
}

// TestWitnessOutlivesWhoAskedFirst: who gives up while a witness is raised leaves it to others.
func TestWitnessOutlivesWhoAskedFirst(t *testing.T) {
	m, client, server := neighbours(t)
	ws := m.near.proxy.witnesses
	h := m.net.hold(netip.AddrPortFrom(server.addr, 15008))
	k := podPair{client.uid, server.uid, netip.AddrPortFrom(server.addr, 15008)}
	first, giveUp := context.WithCancel(t.Context())
	failed := make(chan error)
	go func() {
		_, err := ws.hold(first, k, client.workload.Addresses)
		failed <- err
	}()
	<-h.begun
	stood := make(chan error)
	go func() {
		w, err := ws.hold(t.Context(), k, client.workload.Addresses)
		if err == nil {
			ws.release(w)
		}
		stood <- err
	}()
	giveUp()
	if err := <-failed; !errors.Is(err, context.Canceled) {
		t.Errorf("who gave up got %v", err)
	}
	close(h.release)
	if err := <-stood; err != nil {
		t.Errorf("who waited got %v", err)
	}
}

// TestWitnessOfAPodThatLeft: a pod's stay ends while a witness of it connects.
func TestWitnessOfAPodThatLeft(t *testing.T) {
	m, client, server := neighbours(t)
	ws, to := m.near.proxy.witnesses, netip.AddrPortFrom(server.addr, 15008)
	h := m.net.hold(to)
	left := make(chan error)
	go func() {
		_, err := ws.hold(t.Context(), podPair{client.uid, server.uid, to}, client.workload.Addresses)
		left <- err
	}()
	<-h.begun
	ws.closePod(client.uid)
	close(h.release)
	if err := <-left; !errors.Is(err, errLeft) {
		t.Errorf("got a witness, or %v, want that the pod left", err)
	}
	eventually(t, "its connection to be closed", func() bool { return m.dialled()[0].SetDeadline(time.Time{}) != nil })
}

// TestClaimWaits: a witness may be accepted before its connect has returned, which tells its port. Who comes from
// elsewhere need not wait.
func TestClaimWaits(t *testing.T) {
	ws := newWitnesses(nil)
	to, from := netip.MustParseAddrPort(serverAddr+":15008"), netip.MustParseAddrPort(clientAddr+":40000")
	w := &witness{pair: podPair{"uid-client", "uid-web", to}, from: []netip.Addr{from.Addr()}, connected: make(chan struct{}), claimed: make(chan struct{})}
	ws.pairs[w.pair] = w
	accepted := func(src netip.AddrPort) *inpod.Conn {
		l, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		defer l.Close()
		c, err := net.Dial("tcp", l.Addr().String())
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { c.Close() })
		conn, err := inpod.NewConn(c.(*net.TCPConn), false, to, src)
		if err != nil {
			t.Fatal(err)
		}
		return conn
	}
	if ws.claim(t.Context(), "uid-web", accepted(netip.MustParseAddrPort("10.1.0.9:40000"))) {
		t.Error("a connection from elsewhere was taken for the witness")
	}
	taken := make(chan bool)
	for _, src := range []netip.AddrPort{from, netip.AddrPortFrom(from.Addr(), 40001)} {
		go func() { taken <- ws.claim(t.Context(), "uid-web", accepted(src)) }()
	}
	select {
	case got := <-taken:
		t.Fatalf("decided (%v) before the witness is known", got)
	case <-time.After(20 * time.Millisecond):
	}
	ws.mu.Lock()
	ws.ends[ends{from, to}] = w
	close(w.connected)
	ws.mu.Unlock()
	if a, b := <-taken, <-taken; a == b {
		t.Errorf("taken for the witness: %v and %v, want the one with its port", a, b)
	}
	if w.far.RemoteAddrPort() != from {
		t.Errorf("the witness is %v, want %v", w.far.RemoteAddrPort(), from)
	}
}
