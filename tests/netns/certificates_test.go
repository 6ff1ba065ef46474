// SPDX-License-Identifier: Apache-2.0

package netns

import (
	"context"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"log/slog"
	"net"
	"net/netip"
	"net/url"
	"os"
	"testing"
	"time"

	"github.com/warren-mesh/warren/mesh"
	"github.com/warren-mesh/warren/mesh/manifests"
	"github.com/warren-mesh/warren/tests/forge"
	"github.com/warren-mesh/warren/ztunnel/identity"
)

// account is a service account of the default trust domain.
func account(namespace, name string) mesh.Identity {
	return mesh.Identity{TrustDomain: mesh.DefaultTrustDomain, Namespace: namespace, ServiceAccount: name}
}

// meshSigner is the mesh's own issuing key, read as nobody but the test may. So a certificate can be wrong in one
// thing alone.
func meshSigner(t *testing.T, m *Mesh) forge.Signer {
	t.Helper()
	b, err := os.ReadFile(m.path("ca/issuing.pem"))
	if err != nil {
		t.Fatal(err)
	}
	return forge.Read(t, b)
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
	key := forge.Key(t)
	der, err := x509.CreateCertificateRequest(rand.Reader, &x509.CertificateRequest{Subject: pkix.Name{}, URIs: []*url.URL{forge.URI(t, id.String())}}, key)
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
