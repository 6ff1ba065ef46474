// SPDX-License-Identifier: Apache-2.0

package identity

import (
	"crypto/ecdsa"
	"crypto/tls"
	"crypto/x509"
	"encoding/hex"
	"encoding/pem"
	"errors"
	"fmt"
	"math/rand/v2"
	"time"

	"github.com/warren-mesh/warren/mesh"
)

// certificate is a key with the chain issued for it, ready to be shown in a handshake.
type certificate struct {
	tls   tls.Certificate
	leaf  *x509.Certificate
	chain []*x509.Certificate
	key   *key
	root  *x509.Certificate // that verified it when it came
	renew time.Time
}

// newCertificate checks what the CA answered for id and key: the leaf is for that key and identity, valid
// now, and chains to the roots. The answer's last element, the CA's idea of the roots, is dropped.
func newCertificate(id mesh.Identity, k *key, chainPEM []string, roots *Roots, now time.Time) (*certificate, error) {
	chain, err := parseChain(chainPEM)
	if err != nil {
		return nil, err
	}
	leaf := chain[0]
	if pub, ok := leaf.PublicKey.(*ecdsa.PublicKey); !ok || !pub.Equal(k.Public()) {
		return nil, errors.New("certificate is for another key")
	}
	got, err := svid(leaf)
	if err != nil {
		return nil, err
	}
	if got != id {
		return nil, fmt.Errorf("certificate is for %s", got)
	}
	c := &certificate{leaf: leaf, chain: chain, key: k, tls: tls.Certificate{PrivateKey: k, Leaf: leaf}}
	if c.root, err = c.verify(roots, now); err != nil {
		return nil, err
	}
	for _, x := range chain {
		c.tls.Certificate = append(c.tls.Certificate, x.Raw)
	}
	// Half-life give or take a tenth of it, so that a node's certificates do not all come due together. At the end of
	// an authority's life each certificate is shorter than the one before; they are not asked for in a loop.
	half := float64(leaf.NotAfter.Sub(now)) / 2
	c.renew = now.Add(max(time.Duration(half*(0.9+0.2*rand.Float64())), renewLeast))
	return c, nil
}

// renewLeast is the least time between a certificate and its renewal.
const renewLeast = 5 * time.Second

// maxChain bounds the certificates of an answer.
const maxChain = 8

func parseChain(chainPEM []string) ([]*x509.Certificate, error) {
	if len(chainPEM) < 2 {
		return nil, fmt.Errorf("chain has %d elements (want leaf first, roots last)", len(chainPEM))
	}
	var out []*x509.Certificate
	for _, p := range chainPEM[:len(chainPEM)-1] {
		for block, rest := pem.Decode([]byte(p)); block != nil; block, rest = pem.Decode(rest) {
			c, err := x509.ParseCertificate(block.Bytes)
			if err != nil {
				return nil, fmt.Errorf("parse chain: %w", err)
			}
			out = append(out, c)
		}
	}
	if len(out) == 0 || len(out) > maxChain {
		return nil, fmt.Errorf("chain has %d certificates (want 1 to %d)", len(out), maxChain)
	}
	return out, nil
}

// verify checks that peers with the same roots will accept the certificate, in both roles, and returns its root.
func (c *certificate) verify(roots *Roots, now time.Time) (root *x509.Certificate, err error) {
	for _, usage := range []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth, x509.ExtKeyUsageServerAuth} {
		if root, err = roots.verify(c.chain, usage, now); err != nil {
			return nil, err
		}
	}
	return root, nil
}

func (c *certificate) valid(now time.Time) bool {
	return c != nil && !now.Before(c.leaf.NotBefore) && !now.After(c.leaf.NotAfter)
}

// lasting is valid, with a tenth of its life left or more.
func (c *certificate) lasting(now time.Time) bool {
	return c.valid(now) && c.leaf.NotAfter.Sub(now) >= c.leaf.NotAfter.Sub(c.leaf.NotBefore)/10
}

func serial(c *x509.Certificate) string { return hex.EncodeToString(c.SerialNumber.Bytes()) }
