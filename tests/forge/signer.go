// SPDX-License-Identifier: Apache-2.0

// Package forge makes certificates that are wrong in one thing alone, for tests of who must not get in.
package forge

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
)

// Signer signs certificates.
type Signer struct {
	Key  *ecdsa.PrivateKey
	Cert *x509.Certificate
}

// Read takes a signer from PEM: its key, and the last certificate.
func Read(t testing.TB, text []byte) Signer {
	t.Helper()
	var s Signer
	for block, rest := pem.Decode(text); block != nil; block, rest = pem.Decode(rest) {
		switch block.Type {
		case "PRIVATE KEY":
			k, err := x509.ParsePKCS8PrivateKey(block.Bytes)
			if err != nil {
				t.Fatal(err)
			}
			s.Key = k.(*ecdsa.PrivateKey)
		case "CERTIFICATE":
			var err error
			if s.Cert, err = x509.ParseCertificate(block.Bytes); err != nil {
				t.Fatal(err)
			}
		}
	}
	if s.Key == nil || s.Cert == nil {
		t.Fatal("no signer's key and certificate in what was read")
	}
	return s
}

// Foreign is an authority that nobody trusts. Its names are those of s.
func (s Signer) Foreign(t testing.TB) Signer {
	t.Helper()
	other := Signer{Key: Key(t)}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: s.Cert.Subject, NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
		KeyUsage: x509.KeyUsageCertSign, IsCA: true, BasicConstraintsValid: true,
	}
	other.Cert = Sign(t, template, template, other.Key.Public(), other.Key)
	return other
}

// Certificate makes a workload's certificate, good for an hour; change, if any, spoils it.
func (s Signer) Certificate(t testing.TB, id string, change func(*x509.Certificate)) *tls.Certificate {
	t.Helper()
	key := Key(t)
	template := &x509.Certificate{
		SerialNumber: big.NewInt(time.Now().UnixNano()), NotBefore: time.Now().Add(-time.Minute), NotAfter: time.Now().Add(time.Hour),
		KeyUsage: x509.KeyUsageDigitalSignature, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth, x509.ExtKeyUsageServerAuth},
		URIs: []*url.URL{URI(t, id)},
	}
	if change != nil {
		change(template)
	}
	leaf := Sign(t, template, s.Cert, key.Public(), s.Key)
	return &tls.Certificate{Certificate: [][]byte{leaf.Raw, s.Cert.Raw}, PrivateKey: key, Leaf: leaf}
}

// Key is a new one, on P-256.
func Key(t testing.TB) *ecdsa.PrivateKey {
	t.Helper()
	k, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return k
}

// Sign makes a certificate of a template.
func Sign(t testing.TB, template, parent *x509.Certificate, public any, key *ecdsa.PrivateKey) *x509.Certificate {
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

// URI parses an identity's.
func URI(t testing.TB, id string) *url.URL {
	t.Helper()
	u, err := url.Parse(id)
	if err != nil {
		t.Fatal(err)
	}
	return u
}
