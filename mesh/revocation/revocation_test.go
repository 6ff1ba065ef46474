// SPDX-License-Identifier: Apache-2.0

package revocation

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"encoding/pem"
	"errors"
	"math/big"
	"strings"
	"testing"
	"time"
)

var now = time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)

type pair struct {
	key  *ecdsa.PrivateKey
	cert *x509.Certificate
}

func newPair(t *testing.T, by *pair, name string, serial int64, isCA bool) *pair {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	c := &x509.Certificate{
		SerialNumber: big.NewInt(serial), Subject: pkix.Name{CommonName: name}, NotBefore: now.Add(-time.Hour), NotAfter: now.Add(time.Hour),
		IsCA: isCA, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign | x509.KeyUsageCRLSign,
	}
	p := &pair{key: key}
	signer := by
	if by == nil {
		signer = &pair{key, c}
	}
	der, err := x509.CreateCertificate(rand.Reader, c, signer.cert, key.Public(), signer.key)
	if err != nil {
		t.Fatal(err)
	}
	if p.cert, err = x509.ParseCertificate(der); err != nil {
		t.Fatal(err)
	}
	return p
}

func (p *pair) revoke(t *testing.T, next time.Time, serials ...int64) []byte {
	t.Helper()
	r := &x509.RevocationList{Number: big.NewInt(1), ThisUpdate: now.Add(-2 * time.Hour), NextUpdate: next}
	for _, s := range serials {
		r.RevokedCertificateEntries = append(r.RevokedCertificateEntries, x509.RevocationListEntry{SerialNumber: big.NewInt(s), RevocationTime: now})
	}
	return p.sign(t, r)
}

func (p *pair) sign(t *testing.T, r *x509.RevocationList) []byte {
	t.Helper()
	der, err := x509.CreateRevocationList(rand.Reader, r, p.cert, p.key)
	if err != nil {
		t.Fatal(err)
	}
	return pem.EncodeToMemory(&pem.Block{Type: "X509 CRL", Bytes: der})
}

func mustParse(t *testing.T, data ...[]byte) *Lists {
	t.Helper()
	var all []byte
	for _, d := range data {
		all = append(all, d...)
	}
	l, err := Parse(all)
	if err != nil {
		t.Fatal(err)
	}
	return l
}

func TestCheck(t *testing.T) {
	root := newPair(t, nil, "root", 1, true)
	inter := newPair(t, root, "issuing", 2, true)
	leaf := newPair(t, inter, "leaf", 3, false)
	twin := newPair(t, root, "issuing", 4, true) // the successor: same name, other key
	path := []*x509.Certificate{leaf.cert, inter.cert, root.cert}
	later := now.Add(time.Hour)
	forged := func() []byte { // says it is by inter, which did not sign it
		other := &pair{key: newPair(t, nil, "x", 9, true).key, cert: inter.cert}
		c := *inter.cert
		c.PublicKey = other.key.Public()
		other.cert = &c
		return other.revoke(t, later)
	}
	tests := []struct {
		name    string
		data    [][]byte
		revoked bool
		err     string
	}{
		{name: "no list"},
		{name: "another serial", data: [][]byte{inter.revoke(t, later, 33)}},
		{name: "the leaf", data: [][]byte{inter.revoke(t, later, 5, 3)}, revoked: true},
		{name: "the leaf's serial, by the root", data: [][]byte{root.revoke(t, later, 3)}},
		{name: "the leaf's serial, by the issuer's successor", data: [][]byte{twin.revoke(t, later, 3)}},
		{name: "the intermediate", data: [][]byte{inter.revoke(t, later), root.revoke(t, later, 2)}, revoked: true},
		{name: "the root itself", data: [][]byte{root.revoke(t, later, 1)}},
		{name: "out of date all the same", data: [][]byte{inter.revoke(t, now.Add(-time.Hour), 3)}, revoked: true},
		{name: "a forged list", data: [][]byte{forged()}, err: "signature"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			l := mustParse(t, tt.data...)
			for range 2 { // the second from memory
				err := l.Check(path)
				if errors.Is(err, ErrRevoked) != tt.revoked {
					t.Errorf("got %v", err)
				}
				if !tt.revoked && (err != nil) != (tt.err != "") || tt.err != "" && !strings.Contains(err.Error(), tt.err) {
					t.Errorf("got %v, want %q", err, tt.err)
				}
			}
		})
	}
	l := mustParse(t, inter.revoke(t, later, 3), twin.revoke(t, later))
	if who, err := l.Strangers([]*x509.Certificate{root.cert, inter.cert}); err != nil || len(who) != 1 {
		t.Errorf("strangers %q, %v", who, err)
	}
	if _, err := mustParse(t, forged()).Strangers(path); err == nil {
		t.Error("a forged list passed")
	}
	if again := mustParse(t, l.PEM()); again.Len() != 1 || len(again.lists) != 2 {
		t.Errorf("%d revoked in %d lists after a round trip", again.Len(), len(again.lists))
	}
}

func TestParseRefuses(t *testing.T) {
	root := newPair(t, nil, "root", 1, true)
	ok := root.revoke(t, now.Add(time.Hour), 3)
	block, _ := pem.Decode(ok)
	if l, err := Parse(block.Bytes); err != nil || l.Len() != 1 {
		t.Errorf("DER: %v", err)
	}
	critical := func(list, entry []pkix.Extension) []byte {
		return root.sign(t, &x509.RevocationList{Number: big.NewInt(1), ThisUpdate: now, NextUpdate: now.Add(time.Hour), ExtraExtensions: list,
			RevokedCertificateEntries: []x509.RevocationListEntry{{SerialNumber: big.NewInt(3), RevocationTime: now, ExtraExtensions: entry}}})
	}
	delta := []pkix.Extension{{Id: asn1.ObjectIdentifier{2, 5, 29, 27}, Critical: true, Value: []byte{2, 1, 1}}}
	for name, data := range map[string][]byte{
		"text": []byte("no list"), "a certificate": pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: root.cert.Raw}),
		"cut short": ok[:len(ok)/2], "something behind": append(ok[:len(ok):len(ok)], "x"...), "a damaged second": append(ok[:len(ok):len(ok)], pem.EncodeToMemory(&pem.Block{Type: "X509 CRL", Bytes: block.Bytes[:40]})...),
		"a delta": critical(delta, nil), "an indirect list": critical(nil, []pkix.Extension{{Id: asn1.ObjectIdentifier{2, 5, 29, 29}, Critical: true, Value: []byte{5, 0}}}),
	} {
		if _, err := Parse(data); err == nil {
			t.Errorf("%s: parsed", name)
		}
	}
}

func TestNext(t *testing.T) {
	root := newPair(t, nil, "root", 1, true)
	fresh, stale := root.revoke(t, now.Add(time.Hour), 1), root.revoke(t, now.Add(-time.Hour), 2)
	good := mustParse(t, root.revoke(t, now.Add(2*time.Hour), 3, 4, 5))
	old := mustParse(t, root.revoke(t, now.Add(-2*time.Hour), 3, 4, 5))
	tests := []struct {
		name string
		last *Lists
		data []byte
		want int // revoked
		err  bool
	}{
		{"first", nil, fresh, 1, false},
		{"newer", good, fresh, 1, false},
		{"none any more", good, nil, 0, false},
		{"garbage keeps the last", good, []byte("x"), 3, true},
		{"garbage keeps the last, out of date or not", old, []byte("x"), 3, true},
		{"garbage and nothing before", nil, []byte("x"), 0, true},
		{"out of date keeps the last", good, stale, 3, true},
		{"out of date and nothing before", nil, stale, 1, true},
		{"out of date, like the last", old, stale, 1, true},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			got, err := Next(tt.last, tt.data, now)
			if got.Len() != tt.want || (err != nil) != tt.err {
				t.Errorf("%d revoked, %v", got.Len(), err)
			}
		})
	}
}
