// SPDX-License-Identifier: Apache-2.0

package netns

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/warren-mesh/warren/mesh"
	"github.com/warren-mesh/warren/mesh/manifests"
	"github.com/warren-mesh/warren/tests/forge"
	"github.com/warren-mesh/warren/tests/intruder"
	"github.com/warren-mesh/warren/tests/testutil"
)

// TestServerSeesTheClientsIdentity talks as two service accounts, over both distances: the server's ztunnel names each
// client by its own identity, in access log and metrics, and so does the client's ztunnel the server.
func TestServerSeesTheClientsIdentity(t *testing.T) {
	testutil.Privileged(t)
	s := newSpine(t, Options{})
	other := s.Node("a").Pod("other", In("app"), ServiceAccount("other"))
	s.WaitCaptured(other, "true")
	for _, client := range []*Pod{s.client, other} {
		for _, server := range []*Pod{s.near, s.far} {
			source, destination := witness(t, s.client.Node), witness(t, server.Node)
			local, _, err := talk(t, client, "tcp6", server.Addr("tcp6", 8080).String(), "x")
			if err != nil {
				t.Errorf("%s to %s: %v", client, server, err)
				continue
			}
			ids := []string{"src.identity=" + account("app", client.Name).String(), "dst.identity=" + account("app", server.Name).String()}
			reason := map[bool]string{true: "SAME_NODE", false: "TUNNEL"}[server == s.near]
			source.ended("source", reason, append(ids, "src.addr="+local)...)
			where := map[bool]string{true: "dst.addr", false: "dst.hbone_addr"}[server == s.near]
			destination.ended("destination", reason, append(ids, fmt.Sprintf("%s=%s", where, server.Addr("tcp6", 8080)))...)
			labels := []string{
				fmt.Sprintf("source_principal=%q", account("app", client.Name)), fmt.Sprintf("destination_principal=%q", account("app", server.Name)),
				fmt.Sprintf("source_workload=%q", client.Name), fmt.Sprintf("destination_workload=%q", server.Name),
				`connection_security_policy="mutual_tls"`,
			}
			for reporter, e := range map[string]*evidence{"source": source, "destination": destination} {
				if n := metric(e.scrape(), "istio_tcp_connections_opened_total", append(labels, fmt.Sprintf("reporter=%q", reporter))...); n != 1 {
					t.Errorf("metric of reporter %s for %v: %v, want 1", reporter, labels, n)
				}
			}
		}
	}
}

// badCertificates are a workload's certificates that must convince nobody; each is wrong in one thing. own is a good
// one's identity.
func badCertificates(t *testing.T, m *Mesh, own mesh.Identity) map[string]*tls.Certificate {
	good := meshSigner(t, m)
	id := own.String()
	return map[string]*tls.Certificate{
		"another CA":           good.Foreign(t).Certificate(t, id, nil),
		"another trust domain": good.Certificate(t, strings.Replace(id, own.TrustDomain, "elsewhere.example", 1), nil),
		"no SPIFFE URI": good.Certificate(t, id, func(c *x509.Certificate) {
			c.URIs, c.DNSNames = nil, []string{"far.app.svc.cluster.local"}
		}),
		"a URI that is no SPIFFE identity": good.Certificate(t, strings.Replace(id, "spiffe:", "https:", 1), nil),
		"two SPIFFE URIs": good.Certificate(t, id, func(c *x509.Certificate) {
			c.URIs = append(c.URIs, forge.URI(t, account("app", "near").String()))
		}),
		"expired": good.Certificate(t, id, func(c *x509.Certificate) {
			c.NotBefore, c.NotAfter = time.Now().Add(-time.Hour), time.Now().Add(-time.Second)
		}),
		"not yet valid": good.Certificate(t, id, func(c *x509.Certificate) { c.NotBefore = time.Now().Add(time.Minute) }),
	}
}

// TestServerRefusesClients connects to the HBONE port with certificates that are each wrong in one thing. The client
// learns it at its first read, by an alert; the server's ztunnel logs and counts it; the application hears nothing.
func TestServerRefusesClients(t *testing.T) {
	testutil.Privileged(t)
	s := newSpine(t, Options{})
	stranger := s.Node("a").Pod("stranger")
	id := account("app", "client")
	reasons := map[string]string{
		"another CA": "TLS_FAILURE", "expired": "TLS_FAILURE", "not yet valid": "TLS_FAILURE", "no certificate": "TLS_FAILURE",
		"another trust domain": "IDENTITY_MISMATCH", "no SPIFFE URI": "IDENTITY_MISMATCH", "two SPIFFE URIs": "IDENTITY_MISMATCH",
		"a URI that is no SPIFFE identity": "IDENTITY_MISMATCH",
	}
	certs := badCertificates(t, s.Mesh, id)
	certs["no certificate"] = nil
	for name, cert := range certs {
		t.Run(name, func(t *testing.T) {
			far := witness(t, s.far.Node)
			c, err := shake(t, stranger, s.far.IPv4, cert)
			if err == nil { // TLS 1.3: the client is done before the server has looked at its certificate
				_, err = c.Read(make([]byte, 1))
			}
			var alert *net.OpError
			if !errors.As(err, &alert) || alert.Op != "remote error" {
				t.Errorf("the client's first read: %v, want a TLS alert", err)
			}
			far.ended("destination", reasons[name], fmt.Sprintf("src.addr=%s", c.LocalAddr()), "bytes_sent=0", "bytes_recv=0")
			if lines := far.lines("src.addr="+c.LocalAddr().String(), "reason=TUNNEL"); len(lines) > 0 {
				t.Errorf("it was served: %v", lines)
			}
		})
	}
	t.Run("and a good certificate is served", func(t *testing.T) {
		far := witness(t, s.far.Node)
		tunnel := tunnelTo(t, stranger, s.far.IPv4, meshSigner(t, s.Mesh).Certificate(t, id.String(), nil))
		if got := intruder.Connect(t, tunnel, s.far.Addr("tcp4", 8080).String()); got != 200 {
			t.Errorf("status %d, want 200", got)
		}
		far.line("src.identity="+id.String(), fmt.Sprintf("dst.hbone_addr=%s", s.far.Addr("tcp4", 8080)))
	})
	t.Run("TLS 1.2 is refused", func(t *testing.T) {
		cert := meshSigner(t, s.Mesh).Certificate(t, id.String(), nil)
		raw := dial(t, stranger, "tcp", netip.AddrPortFrom(s.far.IPv4, hbonePort).String(), 10*time.Second)
		defer raw.Close()
		c := tls.Client(raw, &tls.Config{MaxVersion: tls.VersionTLS12, NextProtos: []string{"h2"}, InsecureSkipVerify: true, Certificates: []tls.Certificate{*cert}})
		if err := c.HandshakeContext(t.Context()); err == nil {
			t.Error("handshake succeeded")
		}
	})
}

// TestClientRefusesServers has a captured pod whose HBONE port answers with certificates that are not its own: the
// client's ztunnel sends it nothing and its application gets a reset. With the right one the same server is taken.
func TestClientRefusesServers(t *testing.T) {
	testutil.Privileged(t)
	s := newSpine(t, Options{})
	// Nothing of Warren runs on this node: the test plays its agent and its ztunnel.
	victim := s.Node("c").Pod("victim", In("app"), ServiceAccount("victim"))
	server := newImpostor(t, victim)
	publishCaptured(t, victim)
	id := account("app", "victim")
	certs := badCertificates(t, s.Mesh, id)
	certs["another identity"] = meshSigner(t, s.Mesh).Certificate(t, account("app", "far").String(), nil)
	certs["another namespace's account of this name"] = meshSigner(t, s.Mesh).Certificate(t, account("other", "victim").String(), nil)
	delete(certs, "two SPIFFE URIs") // the server may carry more, as ambient's do; the one expected is among them
	for name, cert := range certs {
		t.Run(name, func(t *testing.T) {
			server.cert.Store(cert)
			before, _ := server.lastShake()
			a := witness(t, s.client.Node)
			if _, _, err := talk(t, s.client, "tcp4", victim.Addr("tcp4", 8080).String(), "secret"); !isReset(err) {
				t.Errorf("the application saw %v, want a reset", err)
			}
			want := "IDENTITY_MISMATCH"
			switch name {
			case "another CA", "expired", "not yet valid":
				want = "TLS_FAILURE"
			}
			a.ended("source", want, "src.workload=client", fmt.Sprintf("dst.addr=%s", victim.Addr("tcp4", hbonePort)))
			testutil.Eventually(t, told, "one more handshake of the impostor, which failed", func() bool {
				n, err := server.lastShake()
				return n > before && err != nil
			})
		})
	}
	if n := server.streams.Load(); n != 0 {
		t.Errorf("the impostor got %d streams", n)
	}
	t.Run("and its own certificate is accepted", func(t *testing.T) {
		server.cert.Store(meshSigner(t, s.Mesh).Certificate(t, id.String(), nil))
		if _, _, err := talk(t, s.client, "tcp4", victim.Addr("tcp4", 8080).String(), "hello"); err != nil {
			t.Error(err)
		}
	})
}

// publishCaptured says that a pod is captured, as its node's agent would.
func publishCaptured(t *testing.T, p *Pod) {
	t.Helper()
	publisher := manifests.Publisher{Dir: p.Node.mesh.Manifests(), Node: p.Node.Name}
	if err := publisher.PublishCaptured(t.Context(), mesh.Name{Namespace: p.Namespace, Name: p.Name}, p.UID, "true"); err != nil {
		t.Fatal(err)
	}
}

// TestPodsNeverShareATunnel counts TLS connections on the wire: pods of one service account have one each.
func TestPodsNeverShareATunnel(t *testing.T) {
	testutil.Privileged(t)
	s := newSpine(t, Options{})
	twin := s.Node("a").Pod("twin", In("app"), ServiceAccount("client"))
	s.WaitCaptured(twin, "true")
	wire, b := s.Capture(), witness(t, s.far.Node)
	held := map[*Pod][]*net.TCPConn{}
	for range 3 { // in turns, each held open: whoever comes later finds tunnels that could take it
		for _, p := range []*Pod{s.client, twin} {
			held[p] = append(held[p], openEcho(t, p, "tcp4", "far:80"))
		}
	}
	for _, conns := range held {
		for _, c := range conns {
			if err := ping(c, "x"); err != nil {
				t.Error(err)
			}
			_ = c.CloseWrite()
			_, _ = io.Copy(io.Discard, c)
			c.Close()
		}
	}
	wire.Stop()
	for _, p := range []*Pod{s.client, twin} {
		tunnels := map[netip.AddrPort]bool{}
		for _, f := range wire.Between(p.IPv4, s.far.IPv4) {
			if f.Source.Addr() == p.IPv4 {
				tunnels[f.Source] = true
			}
		}
		if len(tunnels) != 1 {
			t.Errorf("%s has the tunnels %v, want one of its own", p, tunnels)
		}
		for tunnel := range tunnels {
			b.eventually("three connections by the tunnel from "+tunnel.String(), func() bool {
				return len(b.lines("src.addr="+tunnel.String(), "src.workload="+p.Name, "src.identity="+account("app", "client").String(), "reason=TUNNEL")) == 3
			})
		}
	}
}
