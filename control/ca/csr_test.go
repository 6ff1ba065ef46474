// SPDX-License-Identifier: Apache-2.0

package ca

import (
	"bytes"
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"encoding/pem"
	"net"
	"net/url"
	"strings"
	"testing"

	"github.com/warren-mesh/warren/mesh"
)

func uri(t testing.TB, s string) *url.URL {
	t.Helper()
	u, err := url.Parse(s)
	if err != nil {
		t.Fatal(err)
	}
	return u
}

func csr(t testing.TB, tmpl *x509.CertificateRequest, key crypto.Signer) []byte {
	t.Helper()
	der, err := x509.CreateCertificateRequest(rand.Reader, tmpl, key)
	if err != nil {
		t.Fatal(err)
	}
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE REQUEST", Bytes: der})
}

func webCSR(t testing.TB) []byte {
	return csr(t, &x509.CertificateRequest{URIs: []*url.URL{uri(t, web().String())}}, newTestKey(t))
}

func TestParseCSR(t *testing.T) {
	if got, err := ParseCSR(webCSR(t)); err != nil || got.Identity != web() {
		t.Errorf("got %+v, %v", got, err)
	}
	p384, err := ecdsa.GenerateKey(elliptic.P384(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	if got, err := ParseCSR(csr(t, &x509.CertificateRequest{}, p384)); err != nil || !got.Identity.IsZero() {
		t.Errorf("without a name: %+v, %v", got, err)
	}
}

func TestCSRsThatAreRefused(t *testing.T) {
	web := uri(t, web().String())
	p224, err := ecdsa.GenerateKey(elliptic.P224(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	rsaKey, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		t.Fatal(err)
	}
	_, edKey, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	key := newTestKey(t)
	names := func(vs ...asn1.RawValue) *x509.CertificateRequest {
		san, err := asn1.Marshal(vs)
		if err != nil {
			t.Fatal(err)
		}
		return &x509.CertificateRequest{ExtraExtensions: []pkix.Extension{{Id: oidSubjectAltName, Value: san}}}
	}
	good := asn1.RawValue{Class: asn1.ClassContextSpecific, Tag: 6, Bytes: []byte(web.String())}
	unknown := asn1.RawValue{Class: asn1.ClassContextSpecific, Tag: 8, Bytes: []byte{42, 3}} // registeredID
	signed := webCSR(t)
	block, _ := pem.Decode(signed)
	block.Bytes[len(block.Bytes)-1] ^= 1
	forged := pem.EncodeToMemory(block)

	tests := []struct {
		name string
		data []byte
	}{
		{"empty", nil},
		{"no PEM", []byte("hello")},
		{"a certificate", pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: block.Bytes})},
		{"garbage", pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE REQUEST", Bytes: []byte("x")})},
		{"two requests", append(bytes.Clone(signed), signed...)},
		{"too large", append(bytes.Clone(signed), make([]byte, MaxCSR)...)},
		{"forged signature", forged},
		{"P-224", csr(t, &x509.CertificateRequest{URIs: []*url.URL{web}}, p224)},
		{"RSA", csr(t, &x509.CertificateRequest{URIs: []*url.URL{web}}, rsaKey)},
		{"Ed25519", csr(t, &x509.CertificateRequest{URIs: []*url.URL{web}}, edKey)},
		{"two URIs", csr(t, &x509.CertificateRequest{URIs: []*url.URL{web, uri(t, "spiffe://cluster.local/ns/shop/sa/admin")}}, key)},
		{"a DNS name too", csr(t, &x509.CertificateRequest{URIs: []*url.URL{web}, DNSNames: []string{"x"}}, key)},
		{"only a DNS name", csr(t, &x509.CertificateRequest{DNSNames: []string{"warren-control"}}, key)},
		{"an IP too", csr(t, &x509.CertificateRequest{URIs: []*url.URL{web}, IPAddresses: []net.IP{net.IPv4(10, 0, 0, 1)}}, key)},
		{"an e-mail too", csr(t, &x509.CertificateRequest{URIs: []*url.URL{web}, EmailAddresses: []string{"a@b"}}, key)},
		{"a name x509 does not show", csr(t, names(good, unknown), key)},
		{"only such a name", csr(t, names(unknown), key)},
		{"another scheme", csr(t, &x509.CertificateRequest{URIs: []*url.URL{uri(t, "https://cluster.local/ns/shop/sa/web")}}, key)},
		{"too few segments", csr(t, &x509.CertificateRequest{URIs: []*url.URL{uri(t, "spiffe://cluster.local/shop")}}, key)},
		{"a query", csr(t, &x509.CertificateRequest{URIs: []*url.URL{uri(t, web.String()+"?x")}}, key)},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			if got, err := ParseCSR(tt.data); err == nil {
				t.Errorf("parsed: %+v", got)
			} else if !strings.HasPrefix(err.Error(), "parse CSR: ") {
				t.Errorf("error %v", err)
			}
		})
	}
}

// FuzzCSR: whatever is parsed has a key that can be signed for and, if it names anyone, a name that
// survives its text form; and nothing panics.
func FuzzCSR(f *testing.F) {
	f.Add(webCSR(f))
	f.Add([]byte("-----BEGIN CERTIFICATE REQUEST-----\n-----END CERTIFICATE REQUEST-----\n"))
	dir := f.TempDir()
	a, err := Open(Config{Dir: dir + "/ca"})
	if err != nil {
		f.Fatal(err)
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		// Bare DER gets further than mutated base64 does.
		for _, in := range [][]byte{data, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE REQUEST", Bytes: data})} {
			got, err := ParseCSR(in)
			if err != nil {
				continue
			}
			if !got.Identity.IsZero() {
				if back, err := mesh.ParseIdentity(got.Identity.String()); err != nil || back != got.Identity {
					t.Fatalf("identity %q came back as %q, %v", got.Identity, back, err)
				}
			}
			if _, err := a.Issue(web(), got.PublicKey, 0); err != nil {
				t.Fatalf("can't issue for a key that was accepted: %v", err)
			}
		}
	})
}
