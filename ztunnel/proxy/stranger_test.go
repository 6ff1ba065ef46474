// SPDX-License-Identifier: Apache-2.0

package proxy

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"math/big"
	"net"
	"net/netip"
	"net/url"
	"testing"
	"time"
)

// issue makes a client certificate as a stranger might have it.
func (a *authority) issue(t *testing.T, uri string, notAfter time.Time) tls.Certificate {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	tpl := &x509.Certificate{SerialNumber: big.NewInt(7), NotBefore: time.Now().Add(-time.Hour), NotAfter: notAfter,
		KeyUsage: x509.KeyUsageDigitalSignature, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth}}
	if uri != "" {
		u, err := url.Parse(uri)
		if err != nil {
			t.Fatal(err)
		}
		tpl.URIs = []*url.URL{u}
	}
	der, err := x509.CreateCertificate(rand.Reader, tpl, a.cert, key.Public(), a.key)
	if err != nil {
		t.Fatal(err)
	}
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key}
}

// TestStrangersAtTheTunnel: whoever can't prove an identity of this trust domain gets nothing from port 15008,
// and both ends know it: the server by its record, the client at its first read.
func TestStrangersAtTheTunnel(t *testing.T) {
	const good = "spiffe://cluster.local/ns/shop/sa/client"
	soon := time.Now().Add(time.Hour)
	tests := []struct {
		name   string
		cert   func(own, other *authority) []tls.Certificate
		alpn   string
		reason string
	}{
		{"no certificate", func(_, _ *authority) []tls.Certificate { return nil }, "h2", "TLS_FAILURE"},
		{"another authority", func(_, other *authority) []tls.Certificate { return []tls.Certificate{other.issue(t, good, soon)} }, "h2", "TLS_FAILURE"},
		{"another trust domain", func(own, _ *authority) []tls.Certificate {
			return []tls.Certificate{own.issue(t, "spiffe://other.domain/ns/shop/sa/client", soon)}
		}, "h2", "IDENTITY_MISMATCH"},
		{"no SPIFFE URI", func(own, _ *authority) []tls.Certificate { return []tls.Certificate{own.issue(t, "", soon)} }, "h2", "IDENTITY_MISMATCH"},
		{"expired", func(own, _ *authority) []tls.Certificate {
			return []tls.Certificate{own.issue(t, good, time.Now().Add(-time.Minute))}
		}, "h2", "TLS_FAILURE"},
		{"no ALPN", func(own, _ *authority) []tls.Certificate { return []tls.Certificate{own.issue(t, good, soon)} }, "", "TLS_FAILURE"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			m, _, _ := pair(t)
			m.serve(serverPort, func(*net.TCPConn, netip.AddrPort) { t.Error("the application got a stranger's connection") })
			conn, err := m.stranger("192.0.2.66", serverAddr+":15008")
			if err != nil {
				t.Fatal(err)
			}
			cfg := &tls.Config{InsecureSkipVerify: true, MinVersion: tls.VersionTLS13, Certificates: tt.cert(m.ca, newAuthority(t))}
			if tt.alpn != "" {
				cfg.NextProtos = []string{tt.alpn}
			}
			c := tls.Client(conn, cfg)
			err = c.Handshake()
			if err == nil { // TLS 1.3: the client is done before the server has judged it
				_, err = c.Read(make([]byte, 1))
			}
			if err == nil {
				t.Error("the client read something")
			}
			m.far.logged(map[string]any{"reason": tt.reason, "direction": "inbound", "level": "warn"})
		})
	}
}

// TestSilentStranger: who connects and says nothing is let go in bounded time.
func TestSilentStranger(t *testing.T) {
	m, _, _ := pair(t, func(c *Config) { c.ConnectTimeout = 100 * time.Millisecond })
	c, err := m.stranger("192.0.2.66", serverAddr+":15008")
	if err != nil {
		t.Fatal(err)
	}
	if n, err := c.Read(make([]byte, 1)); err == nil {
		t.Errorf("read %d bytes", n)
	}
	m.far.logged(map[string]any{"reason": "TLS_FAILURE"})
}

// TestStrangersWait: strangers who say nothing hold no more than their share of handshakes; others come after them.
func TestStrangersWait(t *testing.T) {
	m, client, server := pair(t, func(c *Config) { c.PodHandshakes = 2 })
	m.echo(serverPort)
	var strangers []net.Conn
	for range 8 {
		c, err := m.stranger("192.0.2.66", serverAddr+":15008")
		if err != nil {
			t.Fatal(err)
		}
		strangers = append(strangers, c)
	}
	pd := m.far.proxy.find(server.uid)
	eventually(t, "the first", func() bool { return len(pd.handshakes) == 2 })
	for range 20 {
		if n := m.far.proxy.active.Load(); n > 2 {
			t.Fatalf("%d connections are served, want 2", n)
		}
		time.Sleep(time.Millisecond)
	}
	for _, c := range strangers {
		_ = c.Close()
	}
	roundTrip(t, client.dial(serverPort), "hello")
	eventually(t, "all handshakes to end", func() bool { return len(pd.handshakes) == 0 })
}

// TestTunnelsOfAPod: peers can't open tunnels to a pod without end.
func TestTunnelsOfAPod(t *testing.T) {
	m, client, server := pair(t, func(c *Config) { c.PodConnections = 1 })
	first := client.tunnelTo(server)
	pd := m.far.proxy.find(server.uid)
	eventually(t, "the first tunnel", func() bool {
		pd.mu.Lock()
		defer pd.mu.Unlock()
		return len(pd.tunnels) == 1
	})
	select {
	case <-client.tunnelTo(server).Done():
	case <-first.Done():
		t.Error("the first tunnel suffered")
	case <-time.After(5 * time.Second):
		t.Error("the second tunnel stays open")
	}
	m.far.logged(map[string]any{"reason": "LIMIT", "direction": "inbound"})
}
