// SPDX-License-Identifier: Apache-2.0

package identity

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"io"
	"net"
	"strings"
	"testing"
	"time"

	"github.com/warren-mesh/warren/mesh"
	"github.com/warren-mesh/warren/mesh/reason"
)

// result is what both ends of one connection saw.
type result struct {
	client, server error // the handshakes
	read           error // the client's first read
	got            string
	clientState    tls.ConnectionState
	serverState    tls.ConnectionState
}

// handshake connects over TCP; the server sends "hello" once it accepted the client.
func handshake(t *testing.T, network string, client, server *tls.Config) (r result) {
	t.Helper()
	addr := "127.0.0.1:0"
	if network == "tcp6" {
		addr = "[::1]:0"
	}
	l, err := net.Listen(network, addr)
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	done := make(chan struct{})
	go func() {
		defer close(done)
		c, err := l.Accept()
		if err != nil {
			r.server = err
			return
		}
		defer c.Close()
		_ = c.SetDeadline(time.Now().Add(10 * time.Second))
		tc := tls.Server(c, server)
		if r.server = tc.Handshake(); r.server == nil {
			r.serverState = tc.ConnectionState()
			_, r.server = tc.Write([]byte("hello"))
		}
	}()
	c, err := net.Dial(network, l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	_ = c.SetDeadline(time.Now().Add(10 * time.Second))
	tc := tls.Client(c, client)
	if r.client = tc.Handshake(); r.client == nil {
		r.clientState = tc.ConnectionState()
		buf := make([]byte, 5)
		_, r.read = io.ReadFull(tc, buf)
		r.got = string(buf)
	} else {
		_ = c.Close()
	}
	<-done
	return r
}

func clientConfig(t *testing.T, s *Store, source mesh.Identity, expected ...string) *tls.Config {
	t.Helper()
	s.Want(source)
	c, err := s.ClientConfig(context.Background(), source, expected)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

func serverConfig(t *testing.T, s *Store, own mesh.Identity) *tls.Config {
	t.Helper()
	s.Want(own)
	c, err := s.ServerConfig(context.Background(), own)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

func TestHandshakeBetweenWorkloads(t *testing.T) {
	a := newAuthority(t, time.Now)
	s := newStore(t, a, fixedRoots(a.pem()), time.Now)
	for _, network := range []string{"tcp4", "tcp6"} {
		r := handshake(t, network, clientConfig(t, s, sa("client"), sa("other").String(), sa("server").String()), serverConfig(t, s, sa("server")))
		if r.client != nil || r.server != nil || r.read != nil || r.got != "hello" {
			t.Fatalf("%s: %+v", network, r)
		}
		for side, cs := range map[mesh.Identity]tls.ConnectionState{sa("server"): r.clientState, sa("client"): r.serverState} {
			if got, err := s.Peer(cs); err != nil || got != side {
				t.Errorf("peer: %v, %v; want %v", got, err, side)
			}
			if cs.Version != tls.VersionTLS13 || cs.NegotiatedProtocol != "h2" || cs.DidResume {
				t.Errorf("version %x protocol %q resumed %v", cs.Version, cs.NegotiatedProtocol, cs.DidResume)
			}
			if cs.CurveID != tls.X25519MLKEM768 {
				t.Errorf("key exchange %v, want the hybrid one", cs.CurveID)
			}
		}
		if r.serverState.ServerName != "" {
			t.Errorf("the client sent SNI %q", r.serverState.ServerName)
		}
	}
}

func TestClientRefusesServer(t *testing.T) {
	a, stranger := newAuthority(t, time.Now), newAuthority(t, time.Now)
	ours := newStore(t, a, fixedRoots(a.pem()), time.Now)
	// The stranger's side trusts both, so that only our client is there to refuse.
	theirs := newStore(t, stranger, fixedRoots(stranger.pem(), a.pem()), time.Now)
	noALPN := serverConfig(t, ours, sa("server")).Clone()
	noALPN.NextProtos = nil
	tests := []struct {
		name   string
		server *tls.Config
		want   reason.Reason
	}{
		{"of another identity", serverConfig(t, ours, sa("impostor")), reason.IdentityMismatch},
		{"of another CA", serverConfig(t, theirs, sa("server")), reason.TLSFailure},
		{"without ALPN", noALPN, reason.TLSFailure},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			r := handshake(t, "tcp4", clientConfig(t, ours, sa("client"), sa("server").String()), tt.server)
			if r.client == nil || ReasonOf(r.client) != tt.want {
				t.Errorf("client: %v (%v), want %v", r.client, ReasonOf(r.client), tt.want)
			}
			if r.server == nil {
				t.Error("the server took the connection for good")
			}
		})
	}
}

func TestServerRefusesClient(t *testing.T) {
	a, stranger := newAuthority(t, time.Now), newAuthority(t, time.Now)
	roots := fixedRoots(a.pem())
	ours := newStore(t, a, roots, time.Now)
	server := serverConfig(t, ours, sa("server"))
	foreign := sa("client")
	foreign.TrustDomain = "elsewhere.example"

	none := clientConfig(t, ours, sa("client"), sa("server").String()).Clone()
	none.GetClientCertificate = func(*tls.CertificateRequestInfo) (*tls.Certificate, error) { return &tls.Certificate{}, nil }
	old := clientConfig(t, ours, sa("client"), sa("server").String()).Clone()
	old.MaxVersion, old.MinVersion = tls.VersionTLS12, tls.VersionTLS12
	noALPN := clientConfig(t, ours, sa("client"), sa("server").String()).Clone()
	noALPN.NextProtos = nil
	otherALPN := noALPN.Clone()
	otherALPN.NextProtos = []string{"http/1.1"}

	uris := func(us ...string) func(*x509.Certificate) {
		return func(c *x509.Certificate) {
			c.URIs = nil
			for _, u := range us {
				c.URIs = append(c.URIs, uri(t, u))
			}
		}
	}
	tests := []struct {
		name   string
		client *tls.Config
		want   reason.Reason
	}{
		{"from another CA", rawClient(t, stranger, nil), reason.TLSFailure},
		{"from another trust domain", clientConfig(t, ours, foreign, sa("server").String()), reason.IdentityMismatch},
		{"without SPIFFE URI", rawClient(t, a, uris()), reason.IdentityMismatch},
		{"with a DNS name instead", rawClient(t, a, func(c *x509.Certificate) { c.URIs, c.DNSNames = nil, []string{"client.shop"} }), reason.IdentityMismatch},
		{"with an URI of another scheme", rawClient(t, a, uris("https://cluster.local/ns/shop/sa/client")), reason.IdentityMismatch},
		{"with too few segments", rawClient(t, a, uris("spiffe://cluster.local/ns/shop")), reason.IdentityMismatch},
		{"with too many segments", rawClient(t, a, uris("spiffe://cluster.local/ns/shop/sa/client/x")), reason.IdentityMismatch},
		{"with escaped segments", rawClient(t, a, uris("spiffe://cluster.local/ns/shop/sa/cl%2fient")), reason.IdentityMismatch},
		{"with two identities", rawClient(t, a, uris(sa("client").String(), sa("admin").String())), reason.IdentityMismatch},
		{"expired", rawClient(t, a, func(c *x509.Certificate) {
			c.NotBefore, c.NotAfter = time.Now().Add(-2*time.Hour), time.Now().Add(-time.Second)
		}), reason.TLSFailure},
		{"not valid yet", rawClient(t, a, func(c *x509.Certificate) { c.NotBefore = time.Now().Add(time.Hour) }), reason.TLSFailure},
		{"for servers only", rawClient(t, a, func(c *x509.Certificate) { c.ExtKeyUsage = []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth} }), reason.TLSFailure},
		{"with none", none, reason.TLSFailure},
		{"with TLS 1.2", old, reason.TLSFailure},
		{"without ALPN", noALPN, reason.TLSFailure},
		{"with another ALPN", otherALPN, reason.TLSFailure},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			r := handshake(t, "tcp4", tt.client, server)
			if r.server == nil || ReasonOf(r.server) != tt.want {
				t.Errorf("server: %v (%v), want %v", r.server, ReasonOf(r.server), tt.want)
			}
			if r.client == nil && r.read == nil {
				t.Error("the client read as if it had been accepted")
			}
			if err := r.read; err != nil && !strings.Contains(err.Error(), "remote error: tls:") {
				t.Errorf("the client's first read: %v, want the server's alert", err)
			}
		})
	}
}

// rawClient is a client with a certificate no store of ours would hold, signed by a with the template bent.
func rawClient(t *testing.T, a *authority, bend func(*x509.Certificate)) *tls.Config {
	t.Helper()
	k, err := newKey()
	if err != nil {
		t.Fatal(err)
	}
	csr, err := newCSR(sa("client"), k)
	if err != nil {
		t.Fatal(err)
	}
	b := &authority{t: t, key: a.key, cert: a.cert, now: a.now, ttl: a.ttl, bend: bend}
	chainPEM, err := b.Fetch(context.Background(), sa("client"), csr)
	if err != nil {
		t.Fatal(err)
	}
	chain, err := parseChain(chainPEM)
	if err != nil {
		t.Fatal(err)
	}
	cert := tls.Certificate{PrivateKey: k, Certificate: [][]byte{chain[0].Raw}}
	return &tls.Config{
		InsecureSkipVerify: true, MinVersion: tls.VersionTLS13, NextProtos: []string{"h2"},
		GetClientCertificate: func(*tls.CertificateRequestInfo) (*tls.Certificate, error) { return &cert, nil },
	}
}

// TestRenewalIsDrawnByLot: certificates of one age, as all of a node's are after its start, do not come due together.
func TestRenewalIsDrawnByLot(t *testing.T) {
	ck := newClock()
	a := newAuthority(t, ck.now)
	roots := fixedRoots(a.pem())
	if err := roots.Refresh(context.Background()); err != nil {
		t.Fatal(err)
	}
	k, _ := newKey()
	csr, _ := newCSR(sa("x"), k)
	chainPEM, err := a.Fetch(context.Background(), sa("x"), csr)
	if err != nil {
		t.Fatal(err)
	}
	seen := map[time.Duration]bool{}
	var least, most time.Duration
	for range 200 {
		c, err := newCertificate(sa("x"), k, chainPEM, roots, ck.now())
		if err != nil {
			t.Fatal(err)
		}
		half := c.leaf.NotAfter.Sub(ck.now()) / 2
		d := c.renew.Sub(ck.now())
		if d < half*9/10 || d > half*11/10 {
			t.Fatalf("renewal in %v, want %v give or take a tenth", d, half)
		}
		if least == 0 || d < least {
			least = d
		}
		most, seen[d] = max(most, d), true
	}
	if len(seen) < 2 || most-least < least/10 {
		t.Errorf("200 renewals at %d times within %v to %v", len(seen), least, most)
	}
}

func TestChainIsVerifiedOncePerBundleAndDatesEachTime(t *testing.T) {
	ck := newClock()
	a := newAuthority(t, ck.now)
	roots := fixedRoots(a.pem())
	if err := roots.Refresh(context.Background()); err != nil {
		t.Fatal(err)
	}
	k, _ := newKey()
	csr, _ := newCSR(sa("x"), k)
	chainPEM, err := a.Fetch(context.Background(), sa("x"), csr)
	if err != nil {
		t.Fatal(err)
	}
	c, err := newCertificate(sa("x"), k, chainPEM, roots, ck.now())
	if err != nil {
		t.Fatal(err)
	}
	if n := len(roots.current.Load().verified); n != 2 {
		t.Errorf("%d chains remembered, want one per usage", n)
	}
	if _, err := c.verify(roots, ck.now().Add(23*time.Hour)); err != nil {
		t.Errorf("before expiry: %v", err)
	}
	for name, at := range map[string]time.Duration{"after expiry": 25 * time.Hour, "before validity": -2 * time.Minute} {
		if _, err := c.verify(roots, ck.now().Add(at)); err == nil {
			t.Errorf("%s: accepted from the cache", name)
		}
	}
}
