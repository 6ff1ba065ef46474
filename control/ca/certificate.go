// SPDX-License-Identifier: Apache-2.0

package ca

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"fmt"
	"net/url"
	"time"

	"github.com/warren-mesh/warren/mesh"
)

func newRoot(trustDomain string, now time.Time) (*keyPair, error) {
	return newPair(nil, &x509.Certificate{
		Subject:   pkix.Name{Organization: []string{trustDomain}, CommonName: "Warren root CA"},
		NotBefore: now.Add(-backdate), NotAfter: now.Add(rootTTL),
		MaxPathLen: 1,
	})
}

func newIssuing(root *keyPair, trustDomain string, now time.Time) (*keyPair, error) {
	return newPair(root, &x509.Certificate{
		Subject:   pkix.Name{Organization: []string{trustDomain}, CommonName: "Warren issuing CA"},
		NotBefore: now.Add(-backdate), NotAfter: earlier(now.Add(issuingTTL), root.cert.NotAfter),
		MaxPathLenZero: true,
	})
}

// newPair makes a key and its CA certificate, signed by parent or, without one, by itself.
func newPair(parent *keyPair, t *x509.Certificate) (*keyPair, error) {
	key, err := newKey()
	if err != nil {
		return nil, err
	}
	t.IsCA, t.BasicConstraintsValid = true, true
	t.KeyUsage = x509.KeyUsageCertSign | x509.KeyUsageCRLSign
	signer := parent
	if signer == nil {
		signer = &keyPair{key: key, cert: t}
	}
	// Without a number in the template the standard library draws a random one of 159 bits (RFC 5280 §4.1.2.2).
	der, err := x509.CreateCertificate(rand.Reader, t, signer.cert, key.Public(), signer.key)
	if err != nil {
		return nil, fmt.Errorf("sign %s: %w", t.Subject.CommonName, err)
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		return nil, err
	}
	return &keyPair{key: key, cert: cert}, nil
}

func newKey() (*ecdsa.PrivateKey, error) { return ecdsa.GenerateKey(elliptic.P256(), rand.Reader) }

func checkRoot(p *keyPair, now time.Time) error {
	switch {
	case !p.cert.IsCA || p.cert.KeyUsage&x509.KeyUsageCertSign == 0:
		return errors.New("certificate is not a CA's (restore it from a backup)")
	case now.After(p.cert.NotAfter):
		return fmt.Errorf("root expired at %s (begin a new authority in an empty directory)", p.cert.NotAfter.Format(time.RFC3339))
	case now.Before(p.cert.NotBefore):
		return fmt.Errorf("root is valid only from %s (set this machine's clock)", p.cert.NotBefore.Format(time.RFC3339))
	}
	return p.cert.CheckSignatureFrom(p.cert)
}

// Issued is a certificate and what goes with it.
type Issued struct {
	// Chain in PEM: the leaf, what lies between it and its root (at least its signer), and last the bundle of roots.
	Chain  []string
	Leaf   *x509.Certificate
	signer *x509.Certificate
}

// Issue signs a certificate for id and pub. ttl is what was asked for: 0 means the authority's default,
// longer is cut to it. dnsNames are for servers outside the data path; workloads have none. The only things
// taken from a requester are the public key and the lifetime.
func (a *Authority) Issue(id mesh.Identity, pub any, ttl time.Duration, dnsNames ...string) (*Issued, error) {
	if err := checkIdentity(id, a.cfg.TrustDomain); err != nil {
		return nil, fmt.Errorf("issue certificate: %w", err)
	}
	if ttl <= 0 || ttl > a.cfg.LeafTTL {
		ttl = a.cfg.LeafTTL
	}
	m := a.current.Load()
	leaf, err := m.sign(id, pub, a.cfg.Now(), max(ttl, MinLeafTTL), dnsNames)
	if err != nil {
		return nil, fmt.Errorf("issue certificate: %w", err)
	}
	chain := []string{string(certPEM(leaf))}
	for _, c := range m.shown() {
		chain = append(chain, string(certPEM(c)))
	}
	return &Issued{Leaf: leaf, Chain: append(chain, string(m.bundle)), signer: m.signing.cert}, nil
}

// sign makes a leaf. It outlives nothing above it.
func (m *material) sign(id mesh.Identity, pub any, now time.Time, ttl time.Duration, dnsNames []string) (*x509.Certificate, error) {
	t := &x509.Certificate{
		// The subject stays empty, which makes the standard library mark the SAN critical (RFC 5280 §4.2.1.6).
		NotBefore: now.Add(-backdate), NotAfter: earlier(now.Add(ttl), m.until()),
		KeyUsage:              x509.KeyUsageDigitalSignature,
		ExtKeyUsage:           []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth, x509.ExtKeyUsageServerAuth},
		BasicConstraintsValid: true,
		URIs:                  []*url.URL{{Scheme: "spiffe", Host: id.TrustDomain, Path: "/ns/" + id.Namespace + "/sa/" + id.ServiceAccount}},
		DNSNames:              dnsNames,
	}
	if !t.NotAfter.After(now) {
		return nil, fmt.Errorf("the authority's own certificates expired at %s (see the log for why they were not replaced)", t.NotAfter.Format(time.RFC3339))
	}
	der, err := x509.CreateCertificate(rand.Reader, t, m.signing.cert, pub, m.signing.key)
	if err != nil {
		return nil, err
	}
	return x509.ParseCertificate(der)
}

func certPEM(c *x509.Certificate) []byte {
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: c.Raw})
}

func earlier(a, b time.Time) time.Time {
	if a.Before(b) {
		return a
	}
	return b
}
