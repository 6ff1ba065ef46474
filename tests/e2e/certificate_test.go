// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"math/big"
	"net/url"
	"testing"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// signer signs certificates.
type signer struct {
	key  *ecdsa.PrivateKey
	cert *x509.Certificate
}

// meshSigner is the mesh's own issuing key, read as nobody but the test may, so that a certificate can be wrong in one
// thing alone.
func meshSigner(t *testing.T, m *Mesh) signer {
	t.Helper()
	secret, err := m.Client().CoreV1().Secrets(system).Get(t.Context(), "warren-ca", metav1.GetOptions{})
	if err != nil {
		t.Fatal(err)
	}
	var s signer
	for block, rest := pem.Decode(secret.Data["issuing.pem"]); block != nil; block, rest = pem.Decode(rest) {
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
	if s.key == nil || s.cert == nil {
		t.Fatal("no issuing key in Secret warren-ca")
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

// certificate makes a workload's certificate, good for an hour.
func (s signer) certificate(t *testing.T, id string) *tls.Certificate {
	t.Helper()
	u, err := url.Parse(id)
	if err != nil {
		t.Fatal(err)
	}
	key := newKey(t)
	leaf := sign(t, &x509.Certificate{
		SerialNumber: big.NewInt(time.Now().UnixNano()), NotBefore: time.Now().Add(-time.Minute), NotAfter: time.Now().Add(time.Hour),
		KeyUsage: x509.KeyUsageDigitalSignature, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth, x509.ExtKeyUsageServerAuth},
		URIs: []*url.URL{u},
	}, s.cert, key.Public(), s.key)
	return &tls.Certificate{Certificate: [][]byte{leaf.Raw, s.cert.Raw}, PrivateKey: key, Leaf: leaf}
}
