// SPDX-License-Identifier: Apache-2.0

package netns

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"log/slog"
	"math/big"
	"net"
	"net/netip"
	"net/url"
	"os"
	"testing"
	"time"

	"github.com/warren-mesh/warren/mesh"
	"github.com/warren-mesh/warren/mesh/manifests"
	"github.com/warren-mesh/warren/ztunnel/identity"
)

// account is a service account of the default trust domain.
func account(namespace, name string) mesh.Identity {
	return mesh.Identity{TrustDomain: mesh.DefaultTrustDomain, Namespace: namespace, ServiceAccount: name}
}

// signer signs certificates.
type signer struct {
	key  *ecdsa.PrivateKey
	cert *x509.Certificate
}

// meshSigner is the mesh's own issuing key, read as nobody but the test may. So a certificate can be wrong in one
// thing alone.
func meshSigner(t *testing.T, m *Mesh) signer {
	t.Helper()
	b, err := os.ReadFile(m.path("ca/issuing.pem"))
	if err != nil {
		t.Fatal(err)
	}
	var s signer
	for block, rest := pem.Decode(b); block != nil; block, rest = pem.Decode(rest) {
		switch block.Type {
		case "PRIVATE KEY":
			k, err := x509.ParsePKCS8PrivateKey(block.Bytes)
			if err != nil {
				t.Fatal(err)
			}
			s.key = k.(*ecdsa.PrivateKey)
		case "CERTIFICATE":
			if s.cert, err = x509.ParseCertificate(block.Bytes); err != nil {
				t.Fatal(err)
			}
		}
	}
	return s
}

// foreignSigner is an authority that nobody trusts. Its names are those of the mesh's own.
func foreignSigner(t *testing.T, like signer) signer {
	t.Helper()
	s := signer{key: newKey(t)}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: like.cert.Subject, NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
		KeyUsage: x509.KeyUsageCertSign, IsCA: true, BasicConstraintsValid: true,
	}
	s.cert = sign(t, template, template, s.key.Public(), s.key)
	return s
}

func newKey(t *testing.T) *ecdsa.PrivateKey {
	t.Helper()
	k, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return k
}

func sign(t *testing.T, template, parent *x509.Certificate, public any, key *ecdsa.PrivateKey) *x509.Certificate {
	t.Helper()
	der, err := x509.CreateCertificate(rand.Reader, template, parent, public, key)
	if err != nil {
		t.Fatal(err)
	}
	c, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

// certificate makes a workload's certificate, good for an hour; change spoils it.
func (s signer) certificate(t *testing.T, id string, change func(*x509.Certificate)) *tls.Certificate {
	t.Helper()
	key := newKey(t)
	template := &x509.Certificate{
		SerialNumber: big.NewInt(time.Now().UnixNano()), NotBefore: time.Now().Add(-time.Minute), NotAfter: time.Now().Add(time.Hour),
		KeyUsage: x509.KeyUsageDigitalSignature, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth, x509.ExtKeyUsageServerAuth},
		URIs: uris(t, id),
	}
	if change != nil {
		change(template)
	}
	leaf := sign(t, template, s.cert, key.Public(), s.key)
	return &tls.Certificate{Certificate: [][]byte{leaf.Raw, s.cert.Raw}, PrivateKey: key, Leaf: leaf}
}

func uris(t *testing.T, ids ...string) []*url.URL {
	t.Helper()
	var out []*url.URL
	for _, id := range ids {
		u, err := url.Parse(id)
		if err != nil {
			t.Fatal(err)
		}
		out = append(out, u)
	}
	return out
}

// authority is control as a node speaks to it: from a pod, with some token. Close it.
func authority(t *testing.T, from *Pod, token string) *identity.CAClient {
	t.Helper()
	m := from.Node.mesh
	control := m.Control().Pod
	c, err := identity.NewCAClient(identity.CAConfig{
		Dial: func(ctx context.Context, a netip.AddrPort) (net.Conn, error) {
			c, err := from.Dial(ctx, "tcp", a.String())
			if tc, ok := c.(*net.TCPConn); ok {
				_ = tc.SetLinger(0) // closing leaves nothing that waits for the other end
			}
			return c, err
		},
		Addresses: func() []netip.AddrPort { return []netip.AddrPort{netip.AddrPortFrom(control.IPv4, caPort)} },
		Token:     func(context.Context) ([]byte, error) { return []byte(token), nil },
		Roots:     roots(t, m),
	})
	if err != nil {
		t.Fatal(err)
	}
	return c
}

func roots(t *testing.T, m *Mesh) *identity.Roots {
	t.Helper()
	r := identity.NewRoots(func(context.Context) ([]byte, error) { return manifests.ReadBundle(m.Manifests()) }, nil, slog.New(slog.DiscardHandler))
	if err := r.Refresh(t.Context()); err != nil {
		t.Fatal(err)
	}
	return r
}

// obtain asks control for a certificate of id, with a new key.
func obtain(t *testing.T, from *Pod, token string, id mesh.Identity) (*tls.Certificate, error) {
	t.Helper()
	key := newKey(t)
	der, err := x509.CreateCertificateRequest(rand.Reader, &x509.CertificateRequest{Subject: pkix.Name{}, URIs: uris(t, id.String())}, key)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	control := authority(t, from, token)
	defer control.Close()
	chain, err := control.Fetch(ctx, id, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE REQUEST", Bytes: der}))
	if err != nil {
		return nil, err
	}
	c := &tls.Certificate{PrivateKey: key}
	for _, text := range chain[:len(chain)-1] { // the root is not shown
		block, _ := pem.Decode([]byte(text))
		c.Certificate = append(c.Certificate, block.Bytes)
	}
	return c, nil
}
