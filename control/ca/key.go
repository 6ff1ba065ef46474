// SPDX-License-Identifier: Apache-2.0

package ca

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/rsa"
	"crypto/x509"
	"encoding/pem"
	"fmt"
	"strings"
)

// keyPair is a CA certificate with its key.
type keyPair struct {
	key  crypto.Signer
	cert *x509.Certificate
}

// belongs reports whether key and certificate are of one pair.
func (p *keyPair) belongs() bool {
	pub, ok := p.key.Public().(interface{ Equal(crypto.PublicKey) bool })
	return ok && pub.Equal(p.cert.PublicKey)
}

// minRSA is the smallest RSA key that signs: what peers verify anew with every handshake has to be worth it.
const minRSA = 2048

// parseKey reads a private key in any of the forms that openssl and cert-manager write.
func parseKey(block *pem.Block) (crypto.Signer, error) {
	var k any
	var err error
	switch {
	case block.Type == "ENCRYPTED PRIVATE KEY" || strings.Contains(block.Headers["Proc-Type"], "ENCRYPTED"):
		return nil, fmt.Errorf("private key is encrypted (decrypt it: openssl pkey -in FILE)")
	case block.Type == "PRIVATE KEY":
		k, err = x509.ParsePKCS8PrivateKey(block.Bytes)
	case block.Type == "EC PRIVATE KEY":
		k, err = x509.ParseECPrivateKey(block.Bytes)
	case block.Type == "RSA PRIVATE KEY":
		k, err = x509.ParsePKCS1PrivateKey(block.Bytes)
	default:
		return nil, fmt.Errorf("unexpected PEM block %q", block.Type)
	}
	if err != nil {
		return nil, fmt.Errorf("parse private key: %w", err)
	}
	switch k := k.(type) {
	case *ecdsa.PrivateKey:
		return k, nil
	case ed25519.PrivateKey:
		return k, nil
	case *rsa.PrivateKey:
		if k.N.BitLen() < minRSA {
			return nil, fmt.Errorf("private key is RSA of %d bits (at least %d)", k.N.BitLen(), minRSA)
		}
		return k, nil
	}
	return nil, fmt.Errorf("private key is a %T, want ECDSA, RSA or Ed25519", k)
}
