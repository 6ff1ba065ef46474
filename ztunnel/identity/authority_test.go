// SPDX-License-Identifier: Apache-2.0

package identity

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"log/slog"
	"net/url"
	"sync"
	"testing"
	"time"

	"github.com/warren-mesh/warren/mesh"
)

// authority is a CA of one certificate, and a Fetcher whose answers a test can bend.
type authority struct {
	t    *testing.T
	key  *ecdsa.PrivateKey
	cert *x509.Certificate
	now  func() time.Time
	ttl  time.Duration

	mu      sync.Mutex
	bend    func(*x509.Certificate)                           // changes the template of the next leaves
	hook    func(ctx context.Context, id mesh.Identity) error // runs before each answer
	calls   []mesh.Identity                                   // in order of arrival
	mangle  func(chain []string) []string                     // changes the answer
	signFor func(requested *ecdsa.PublicKey) any              // swaps the key
}

func newAuthority(t *testing.T, now func() time.Time) *authority {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	tmpl := &x509.Certificate{
		Subject: pkix.Name{CommonName: "test root"}, NotBefore: now().Add(-time.Hour), NotAfter: now().Add(1000 * time.Hour),
		IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign | x509.KeyUsageCRLSign,
	}
	der, err := x509.CreateCertificate(rand.Reader, tmpl, tmpl, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	return &authority{t: t, key: key, cert: cert, now: now, ttl: 24 * time.Hour}
}

func (a *authority) pem() []byte {
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: a.cert.Raw})
}

func (a *authority) set(f func(*authority)) {
	a.mu.Lock()
	defer a.mu.Unlock()
	f(a)
}

func (a *authority) called() []mesh.Identity {
	a.mu.Lock()
	defer a.mu.Unlock()
	return append([]mesh.Identity(nil), a.calls...)
}

// Fetch signs what the request asks for, as bent.
func (a *authority) Fetch(ctx context.Context, id mesh.Identity, csr []byte) ([]string, error) {
	a.mu.Lock()
	a.calls = append(a.calls, id)
	hook, bend, mangle, signFor, cert, caKey := a.hook, a.bend, a.mangle, a.signFor, a.cert, a.key
	a.mu.Unlock()
	if hook != nil {
		if err := hook(ctx, id); err != nil {
			return nil, err
		}
	}
	block, _ := pem.Decode(csr)
	if block == nil {
		return nil, errors.New("no CSR")
	}
	req, err := x509.ParseCertificateRequest(block.Bytes)
	if err != nil {
		return nil, err
	}
	if err := req.CheckSignature(); err != nil {
		return nil, err
	}
	tmpl := &x509.Certificate{
		NotBefore: a.now().Add(-time.Minute), NotAfter: a.now().Add(a.ttl), URIs: req.URIs,
		KeyUsage: x509.KeyUsageDigitalSignature, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth, x509.ExtKeyUsageServerAuth},
	}
	if bend != nil {
		bend(tmpl)
	}
	pub := req.PublicKey
	if signFor != nil {
		pub = signFor(pub.(*ecdsa.PublicKey))
	}
	der, err := x509.CreateCertificate(rand.Reader, tmpl, cert, pub, caKey)
	if err != nil {
		return nil, err
	}
	chain := []string{string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})), string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: cert.Raw}))}
	if mangle != nil {
		chain = mangle(chain)
	}
	return chain, nil
}

// clock is a time that only a test moves.
type clock struct {
	mu sync.Mutex
	t  time.Time
}

func newClock() *clock { return &clock{t: time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)} }

func (c *clock) now() time.Time {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.t
}

func (c *clock) advance(d time.Duration) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.t = c.t.Add(d)
}

func fixedRoots(pems ...[]byte) *Roots {
	return NewRoots(func(context.Context) ([]byte, error) {
		var out []byte
		for _, p := range pems {
			out = append(out, p...)
		}
		return out, nil
	}, nil, slog.New(slog.DiscardHandler))
}

// newStore returns a running store over a.
func newStore(t *testing.T, a *authority, roots *Roots, now func() time.Time) *Store {
	t.Helper()
	s := New(Config{Fetcher: a, Roots: roots, Now: now})
	run(t, s)
	return s
}

func run(t *testing.T, s *Store) {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- s.Run(ctx) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Errorf("Run: %v", err)
		}
	})
}

// eventually waits until ok holds.
func eventually(t *testing.T, what string, ok func() bool) {
	t.Helper()
	for deadline := time.Now().Add(10 * time.Second); !ok(); time.Sleep(2 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("never happened: %s", what)
		}
	}
}

func sa(name string) mesh.Identity {
	return mesh.Identity{TrustDomain: "cluster.local", Namespace: "shop", ServiceAccount: name}
}

func uri(t *testing.T, s string) *url.URL {
	t.Helper()
	u, err := url.Parse(s)
	if err != nil {
		t.Fatal(err)
	}
	return u
}

func parseRequest(t *testing.T, csr []byte) *x509.CertificateRequest {
	t.Helper()
	block, _ := pem.Decode(csr)
	req, err := x509.ParseCertificateRequest(block.Bytes)
	if err != nil {
		t.Fatal(err)
	}
	return req
}
