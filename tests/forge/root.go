// SPDX-License-Identifier: Apache-2.0

package forge

import (
	"crypto/sha256"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/hex"
	"encoding/pem"
	"math/big"
	"testing"
	"time"
)

// Root is an authority that the operator brings.
func Root(t testing.TB, name string) Signer {
	t.Helper()
	s := Signer{Key: Key(t)}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(time.Now().UnixNano()), Subject: pkix.Name{CommonName: name}, NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
		KeyUsage: x509.KeyUsageCertSign | x509.KeyUsageCRLSign, IsCA: true, BasicConstraintsValid: true,
	}
	s.Cert = Sign(t, template, template, s.Key.Public(), s.Key)
	return s
}

// PEM is the certificate.
func (s Signer) PEM() string {
	return string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: s.Cert.Raw}))
}

// KeyPEM is the key, in PKCS #8.
func (s Signer) KeyPEM(t testing.TB) string {
	t.Helper()
	der, err := x509.MarshalPKCS8PrivateKey(s.Key)
	if err != nil {
		t.Fatal(err)
	}
	return string(pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der}))
}

// Fingerprint is the certificate's name in metrics.
func (s Signer) Fingerprint() string {
	sum := sha256.Sum256(s.Cert.Raw)
	return hex.EncodeToString(sum[:8])
}
