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
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus/testutil"

	"github.com/warren-mesh/warren/mesh"
	"github.com/warren-mesh/warren/mesh/reason"
	"github.com/warren-mesh/warren/ztunnel/hbone"
	"github.com/warren-mesh/warren/ztunnel/metrics"
)

// strict refuses whoever has no identity, as the converted PeerAuthentication does.
func strict(action mesh.Action) *mesh.Policy {
	return &mesh.Policy{Name: mesh.Name{Namespace: "warren-system", Name: "strict"}, Scope: mesh.ScopeMesh, Action: action, Strict: true,
		Rules: []mesh.Rule{{Clauses: []mesh.Clause{{Matches: []mesh.Match{{NotPrincipals: []mesh.StringMatch{{Kind: mesh.MatchPresence}}}}}}}}}
}

func denyAll() *mesh.Policy {
	return &mesh.Policy{Name: mesh.Name{Namespace: "shop", Name: "nobody"}, Scope: mesh.ScopeNamespace, Action: mesh.Deny, Rules: []mesh.Rule{{}}}
}

func TestPlaintextInbound(t *testing.T) {
	m, _, _ := pair(t)
	seen := make(chan netip.AddrPort, 1)
	m.serve(serverPort, func(c *net.TCPConn, from netip.AddrPort) {
		seen <- from
		_, _ = io.Copy(c, c)
	})
	c, err := m.stranger("192.0.2.50", serverPort)
	if err != nil {
		t.Fatal(err)
	}
	roundTrip(t, c, "plain")
	if got := <-seen; got.Addr() != netip.MustParseAddr("192.0.2.50") || got.Port() != c.LocalAddr().(*net.TCPAddr).AddrPort().Port() {
		t.Errorf("the application saw %v", got)
	}
	r := m.far.logged(map[string]any{"reason": "INBOUND_PLAINTEXT", "direction": "inbound", "bytes_sent": 5.0, "bytes_recv": 5.0})
	if r["src.identity"] != nil || r["dst.identity"] != nil {
		t.Errorf("plaintext is logged with an identity: %v", r)
	}
}

func TestStrictRefusesPlaintextOnly(t *testing.T) {
	m, client, _ := pair(t)
	m.echo(serverPort)
	m.store.Apply(mesh.PutPolicy{Policy: strict(mesh.Deny)})
	c, err := m.stranger("192.0.2.50", serverPort)
	if err != nil {
		t.Fatal(err)
	}
	wantReset(t, "stranger", c)
	r := m.far.logged(map[string]any{"reason": "STRICT_MTLS", "policy": "warren-system/strict"})
	if want := "PeerAuthentication STRICT: "; !strings.Contains(r["error"].(string), want) {
		t.Errorf("logged %q, want %q in it", r["error"], want)
	}
	if n := m.far.metrics.Reason(metrics.Destination, reason.StrictMTLS); n != 1 {
		t.Errorf("STRICT_MTLS counted %d times", n)
	}
	roundTrip(t, client.dial(serverPort), "by mTLS")
}

func TestPolicyRefusesTunnel(t *testing.T) {
	m, client, _ := pair(t)
	touched := make(chan bool, 1)
	m.serve(serverPort, func(*net.TCPConn, netip.AddrPort) { touched <- true })
	m.store.Apply(mesh.PutPolicy{Policy: denyAll()})
	wantReset(t, "client", client.dial(serverPort))
	m.near.logged(map[string]any{"reason": "PEER_REFUSED", "error": "connect refused: http status 401"})
	m.far.logged(map[string]any{"reason": "POLICY_DENY", "policy": "shop/nobody", "src.identity": "spiffe://cluster.local/ns/shop/sa/client"})
	select {
	case <-touched:
		t.Error("the application got a connection that policy refuses")
	default:
	}
}

func TestUnknownPolicy(t *testing.T) {
	for _, tt := range []struct {
		name    string
		arrives bool
	}{{"arrives", true}, {"stays away", false}} {
		t.Run(tt.name, func(t *testing.T) {
			ref := mesh.Name{Namespace: "shop", Name: "later"}
			m := newMesh(t)
			client := m.pod(m.near, "client", clientAddr)
			m.pod(m.far, "web", serverAddr, func(w *mesh.Workload) { w.Policies = []mesh.Name{ref} })
			m.echo(serverPort)
			c := client.dial(serverPort)
			if !tt.arrives {
				wantReset(t, "client", c)
				m.far.logged(map[string]any{"reason": "POLICY_UNKNOWN", "policy": "shop/later"})
				return
			}
			eventually(t, "the stream", func() bool { return m.far.proxy.find("uid-web").count() == 1 })
			m.store.Apply(mesh.PutPolicy{Policy: &mesh.Policy{Name: ref, Scope: mesh.ScopeWorkload, Action: mesh.Deny}})
			roundTrip(t, c, "waited")
		})
	}
}

func TestPolicyChangeEndsLiveConnections(t *testing.T) {
	m, client, _ := pair(t)
	m.echo(serverPort)
	byTunnel := client.dial(serverPort)
	plain, err := m.stranger("192.0.2.50", serverPort)
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range []*net.TCPConn{byTunnel, plain} {
		_, _ = io.WriteString(c, "x")
		if _, err := io.ReadFull(c, make([]byte, 1)); err != nil {
			t.Fatal(err)
		}
	}
	m.store.Apply(mesh.PutPolicy{Policy: strict(mesh.Deny)})
	wantReset(t, "plaintext under STRICT", plain)
	m.far.logged(map[string]any{"reason": "POLICY_CHANGED", "policy": "warren-system/strict"})
	_, _ = io.WriteString(byTunnel, "y")
	if _, err := io.ReadFull(byTunnel, make([]byte, 1)); err != nil {
		t.Fatalf("STRICT ended a connection by mTLS: %v", err)
	}
	m.store.Apply(mesh.PutPolicy{Policy: denyAll()})
	wantReset(t, "tunnelled under DENY", byTunnel)
	m.far.logged(map[string]any{"reason": "POLICY_CHANGED", "policy": "shop/nobody"})
}

// TestWithdrawnRequest: whoever gave up while policy was waited for has no connection to the application.
func TestWithdrawnRequest(t *testing.T) {
	ref := mesh.Name{Namespace: "shop", Name: "later"}
	m := newMesh(t, func(c *Config) { c.needWait = 10 * time.Second })
	client := m.pod(m.near, "client", clientAddr)
	server := m.pod(m.far, "web", serverAddr, func(w *mesh.Workload) { w.Policies = []mesh.Name{ref} })
	touched := make(chan bool, 1)
	m.serve(serverPort, func(*net.TCPConn, netip.AddrPort) { touched <- true })
	tunnel := client.tunnelTo(server)
	ctx, withdraw := context.WithCancel(t.Context())
	opened := make(chan error, 1)
	go func() {
		_, err := tunnel.Open(ctx, hbone.Request{Authority: serverPort})
		opened <- err
	}()
	eventually(t, "the request", func() bool { return m.far.proxy.find(server.uid).count() == 1 })
	withdraw()
	<-opened
	if _, err := tunnel.Open(t.Context(), hbone.Request{Authority: "10.9.9.9:1"}); err == nil { // behind the withdrawal
		t.Error("an open relay")
	}
	m.store.Apply(mesh.PutPolicy{Policy: &mesh.Policy{Name: ref, Scope: mesh.ScopeWorkload, Action: mesh.Deny}})
	m.far.logged(map[string]any{"reason": "STREAM_RESET", "error": "request was withdrawn"})
	select {
	case <-touched:
		t.Error("the application was connected to")
	default:
	}
}

// TestPolicyChangeOfOneWorkload: a policy that only this workload refers to ends its connections, whether or not the
// control plane tells pod uids.
func TestPolicyChangeOfOneWorkload(t *testing.T) {
	for _, uid := range []string{"uid-web", ""} {
		m := newMesh(t)
		client := m.pod(m.near, "client", clientAddr)
		server := m.pod(m.far, "web", serverAddr, func(w *mesh.Workload) { w.PodUID = uid })
		m.echo(serverPort)
		ref := mesh.Name{Namespace: "shop", Name: "one"}
		m.store.Apply(mesh.PutPolicy{Policy: &mesh.Policy{Name: ref, Scope: mesh.ScopeWorkload, Action: mesh.Deny, Rules: []mesh.Rule{{}}}})
		c := live(t, client)
		w := *server.workload
		w.Policies = []mesh.Name{ref}
		m.store.Apply(mesh.PutWorkload{Workload: &w})
		_ = c.SetDeadline(time.Now().Add(2 * time.Second))
		wantReset(t, "pod uid "+uid, c)
	}
}

// TestPolicyChangeWhileConnecting: a connection is let in by one snapshot and carried only while the latest agrees,
// however long the application takes to accept.
func TestPolicyChangeWhileConnecting(t *testing.T) {
	for _, by := range []string{"tunnel", "plaintext"} {
		t.Run(by, func(t *testing.T) {
			m, client, _ := pair(t)
			m.serve(serverPort, func(c *net.TCPConn, _ netip.AddrPort) { _, _ = io.Copy(c, c) })
			h := m.net.hold(netip.MustParseAddrPort(serverPort))
			var c *net.TCPConn
			if by == "tunnel" {
				c = client.dial(serverPort)
			} else {
				var err error
				if c, err = m.stranger("192.0.2.50", serverPort); err != nil {
					t.Fatal(err)
				}
			}
			<-h.begun
			m.store.Apply(mesh.PutPolicy{Policy: denyAll()})
			release := time.AfterFunc(100*time.Millisecond, func() { close(h.release) })
			defer release.Stop()
			_ = c.SetDeadline(time.Now().Add(2 * time.Second))
			wantReset(t, "client", c)
			m.far.logged(map[string]any{"reason": "POLICY_CHANGED", "policy": "shop/nobody"})
			if by == "tunnel" {
				m.near.logged(map[string]any{"reason": "PEER_REFUSED", "error": "connect refused: http status 401"})
			}
		})
	}
}

// TestPolicyChangeWhileAdmitted: a policy that arrives between the snapshot that let a connection in and the moment
// from which changes are seen is asked, too.
func TestPolicyChangeWhileAdmitted(t *testing.T) {
	m, _, server := pair(t)
	p := m.far.proxy
	pd := p.find(server.uid)
	c, err := p.begin(pd.life, pd, metrics.Destination, facts{direction: inbound}, nil)
	if err != nil {
		t.Fatal(err)
	}
	asked := 0
	err = c.admitted(func() (netip.Addr, netip.AddrPort, error) {
		if asked++; asked > 1 {
			return netip.Addr{}, netip.AddrPort{}, errors.New("refused")
		}
		m.store.Apply(mesh.PutPolicy{Policy: denyAll()})
		return netip.MustParseAddr("192.0.2.50"), netip.MustParseAddrPort(serverPort), nil
	})
	if c.finish(err); asked != 2 || err == nil {
		t.Errorf("asked %d times, err %v; want to be asked again and refused", asked, err)
	}
}

func TestPlaintextFromMesh(t *testing.T) {
	t.Run("refused", func(t *testing.T) {
		m, _, _ := pair(t)
		m.echo(serverPort)
		c, err := m.stranger(clientAddr, serverPort)
		if err != nil {
			t.Fatal(err)
		}
		wantReset(t, "plaintext from a captured pod", c)
		m.far.logged(map[string]any{"reason": "PLAINTEXT_FROM_MESH"})
	})
	t.Run("held until the source left the mesh", func(t *testing.T) {
		m, client, _ := pair(t)
		m.echo(serverPort)
		c, err := m.stranger(clientAddr, serverPort)
		if err != nil {
			t.Fatal(err)
		}
		eventually(t, "the connection", func() bool { return m.far.proxy.find("uid-web").count() == 1 })
		left := *client.workload
		left.Capture = mesh.Outside
		m.store.Apply(mesh.PutWorkload{Workload: &left})
		roundTrip(t, c, "direct now")
	})
	t.Run("from before its capture", func(t *testing.T) {
		m, client, _ := pair(t)
		m.echo(serverPort)
		w := *client.workload
		w.CapturedRunning, w.CapturedAt = true, time.Now()
		m.store.Apply(mesh.PutWorkload{Workload: &w})
		c, err := m.stranger(clientAddr, serverPort)
		if err != nil {
			t.Fatal(err)
		}
		roundTrip(t, c, "early")
	})
	t.Run("STRICT refuses at once", func(t *testing.T) {
		m, _, _ := pair(t, func(c *Config) { c.needWait = time.Hour })
		m.echo(serverPort)
		m.store.Apply(mesh.PutPolicy{Policy: strict(mesh.Deny)})
		c, err := m.stranger(clientAddr, serverPort)
		if err != nil {
			t.Fatal(err)
		}
		wantReset(t, "plaintext", c)
		m.far.logged(map[string]any{"reason": "STRICT_MTLS"})
	})
}

func TestPassthroughOutbound(t *testing.T) {
	m, client, _ := pair(t)
	m.store.Apply(mesh.PutWorkload{Workload: &mesh.Workload{UID: "c//Pod/shop/legacy", Namespace: "shop", Name: "legacy", Ready: true,
		Addresses: []netip.Addr{netip.MustParseAddr("10.1.0.9")}}})
	for _, tt := range []struct{ dst, reason string }{
		{"192.0.2.1:443", "PASSTHROUGH_OUTSIDE_CLUSTER"},
		{"10.1.0.9:80", "PASSTHROUGH_NOT_ENROLLED"},
	} {
		m.echo(tt.dst)
		roundTrip(t, client.dial(tt.dst), "out")
		r := m.near.logged(map[string]any{"reason": tt.reason, "dst.addr": tt.dst, "bytes_sent": 3.0, "bytes_recv": 3.0})
		if r["src.identity"] != nil || r["dst.hbone_addr"] != nil {
			t.Errorf("%s: plaintext is logged like a tunnel: %v", tt.dst, r)
		}
	}
	wantReset(t, "nobody there", client.dial("192.0.2.1:444"))
	m.near.logged(map[string]any{"reason": "CONNECT_FAILURE"})
}

func TestWaits(t *testing.T) {
	t.Run("an unknown address of the cluster", func(t *testing.T) {
		m, client, _ := pair(t)
		wantReset(t, "client", client.dial("10.1.0.77:80"))
		m.near.logged(map[string]any{"reason": "DESTINATION_UNKNOWN"})
	})
	t.Run("a destination that is not captured", func(t *testing.T) {
		m, client, server := pair(t)
		w := *server.workload
		w.Capture = mesh.Pending
		m.store.Apply(mesh.PutWorkload{Workload: &w})
		m.echo(serverPort)
		wantReset(t, "client", client.dial(serverPort))
		m.near.logged(map[string]any{"reason": "DESTINATION_NOT_CAPTURED"})
		c := client.dial(serverPort)
		eventually(t, "the connection", func() bool { return m.near.proxy.find(client.uid).count() == 1 })
		m.store.Apply(mesh.PutWorkload{Workload: server.workload})
		roundTrip(t, c, "captured at last")
		m.near.logged(map[string]any{"reason": "TUNNEL"})
	})
	t.Run("a source that is not known", func(t *testing.T) {
		m, client, _ := pair(t)
		m.echo(serverPort)
		m.store.Apply(mesh.DeleteWorkload{UID: client.workload.UID})
		wantReset(t, "client", client.dial(serverPort))
		m.near.logged(map[string]any{"reason": "SOURCE_UNKNOWN"})
		c := client.dial(serverPort)
		eventually(t, "the connection", func() bool { return m.near.proxy.find(client.uid).count() == 1 })
		m.store.Apply(mesh.PutWorkload{Workload: client.workload})
		roundTrip(t, c, "known at last")
	})
}

// TestSplicedEnds: what passes through in plaintext ends as exactly as what is tunnelled.
func TestSplicedEnds(t *testing.T) {
	const dst = "192.0.2.1:443"
	t.Run("half-close, client first", func(t *testing.T) {
		m, client, _ := pair(t)
		m.serve(dst, func(c *net.TCPConn, _ netip.AddrPort) {
			got, _ := io.ReadAll(c)
			_, _ = c.Write(append(got, " and answered"...))
		})
		c := client.dial(dst)
		_, _ = io.WriteString(c, "asked")
		_ = c.CloseWrite()
		if got, err := io.ReadAll(c); err != nil || string(got) != "asked and answered" {
			t.Errorf("got %q, %v", got, err)
		}
	})
	t.Run("half-close, server first", func(t *testing.T) {
		m, client, _ := pair(t)
		got := make(chan string, 1)
		m.serve(dst, func(c *net.TCPConn, _ netip.AddrPort) {
			_, _ = io.WriteString(c, "over")
			_ = c.CloseWrite()
			b, _ := io.ReadAll(c)
			got <- string(b)
		})
		c := client.dial(dst)
		if b, err := io.ReadAll(c); err != nil || string(b) != "over" {
			t.Fatalf("got %q, %v", b, err)
		}
		_, _ = io.WriteString(c, "late")
		_ = c.Close()
		if s := <-got; s != "late" {
			t.Errorf("the server got %q, want late", s)
		}
	})
	t.Run("reset by the server", func(t *testing.T) {
		m, client, _ := pair(t)
		m.serve(dst, func(c *net.TCPConn, _ netip.AddrPort) {
			_, _ = io.ReadFull(c, make([]byte, 1))
			_ = c.SetLinger(0)
		})
		c := client.dial(dst)
		_, _ = io.WriteString(c, "x")
		wantReset(t, "client", c)
		m.near.logged(map[string]any{"reason": "STREAM_RESET"})
	})
	t.Run("reset by the client", func(t *testing.T) {
		m, client, _ := pair(t)
		ended := make(chan error, 1)
		m.serve(dst, func(c *net.TCPConn, _ netip.AddrPort) {
			_, err := io.Copy(c, c)
			ended <- err
		})
		c := client.dial(dst)
		_, _ = io.WriteString(c, "x")
		_, _ = io.ReadFull(c, make([]byte, 1))
		_ = c.SetLinger(0)
		_ = c.Close()
		if err := <-ended; !errors.Is(err, syscall.ECONNRESET) {
			t.Errorf("the server's read ended with %v, want ECONNRESET", err)
		}
	})
	t.Run("more than one chunk", func(t *testing.T) {
		m, client, _ := pair(t)
		m.echo(dst)
		c := client.dial(dst)
		sent := make([]byte, 3*spliceMost+17)
		_, _ = rand.Read(sent)
		go func() {
			_, _ = c.Write(sent)
			_ = c.CloseWrite()
		}()
		if got, err := io.ReadAll(c); err != nil || !bytes.Equal(got, sent) {
			t.Errorf("got %d bytes, %v; want the %d sent", len(got), err, len(sent))
		}
		m.near.logged(map[string]any{"bytes_sent": float64(len(sent)), "bytes_recv": float64(len(sent))})
	})
}

// TestNotEnforced: what AUDIT and dry-run policies matched is in the log and counted once, and changes nothing.
func TestNotEnforced(t *testing.T) {
	m, client, _ := pair(t)
	m.echo(serverPort)
	dry, audit, other := denyAll(), denyAll(), denyAll()
	dry.Name.Name, dry.DryRun = "tried", true
	audit.Name.Name, audit.Action = "watched", mesh.Audit
	other.Name.Name, other.Action, other.Rules = "quiet", mesh.Audit, nil
	m.store.Apply(mesh.PutPolicy{Policy: dry}, mesh.PutPolicy{Policy: audit}, mesh.PutPolicy{Policy: other})
	c := client.dial(serverPort)
	roundTrip(t, c, "x")
	_ = c.Close()
	m.far.logged(map[string]any{"direction": "inbound", "reason": "TUNNEL", "policy_dry_run": "shop/tried", "policy_audit": "shop/watched"})
	m.store.Apply(mesh.PutPolicy{Policy: denyAll()})
	wantReset(t, "client", client.dial(serverPort))
	m.far.logged(map[string]any{"reason": "POLICY_DENY", "policy": "shop/nobody", "policy_dry_run": "shop/tried", "policy_audit": "shop/watched"})
	want := "# HELP warren_policy_matches_total Policies that inbound connections matched and that are not enforced.\n" +
		"# TYPE warren_policy_matches_total counter\n" +
		"warren_policy_matches_total{kind=\"audit\"} 2\nwarren_policy_matches_total{kind=\"dry_run\"} 2\n"
	if err := testutil.CollectAndCompare(m.far.metrics, strings.NewReader(want), "warren_policy_matches_total"); err != nil {
		t.Error(err)
	}
}
