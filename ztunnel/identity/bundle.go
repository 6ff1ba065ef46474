// SPDX-License-Identifier: Apache-2.0

package identity

import (
	"crypto/sha256"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/warren-mesh/warren/mesh/reason"
)

// verifiedMax bounds the cache of verified chains; beyond it the cache starts afresh.
const verifiedMax = 4096

// bundle is one state of the roots, with the chains it verified. Its generation is its address: another
// bundle has another cache.
type bundle struct {
	pool  *x509.CertPool
	certs []*x509.Certificate

	mu       sync.Mutex
	verified map[verifiedKey]window
}

type verifiedKey struct {
	leaf  [sha256.Size]byte
	usage x509.ExtKeyUsage
}

// window is when every certificate of a verified chain is valid.
type window struct{ notBefore, notAfter time.Time }

func (w window) contains(t time.Time) bool { return !t.Before(w.notBefore) && !t.After(w.notAfter) }

func parseBundle(data []byte) (*bundle, error) {
	b := &bundle{pool: x509.NewCertPool(), verified: map[verifiedKey]window{}}
	for block, rest := pem.Decode(data); block != nil; block, rest = pem.Decode(rest) {
		if block.Type != "CERTIFICATE" {
			return nil, fmt.Errorf("unexpected PEM block %q", block.Type)
		}
		c, err := x509.ParseCertificate(block.Bytes)
		if err != nil {
			return nil, err
		}
		if !c.IsCA {
			return nil, fmt.Errorf("certificate %s is not a CA's", c.SerialNumber)
		}
		b.pool.AddCert(c)
		b.certs = append(b.certs, c)
	}
	if len(b.certs) == 0 {
		return nil, errors.New("no certificate in it")
	}
	return b, nil
}

// verify checks a peer's chain, leaf first, at the time now. A leaf is verified once per bundle and usage;
// then only the dates of the chain that proved it are looked at.
func (r *Roots) verify(chain []*x509.Certificate, usage x509.ExtKeyUsage, now time.Time) error {
	b := r.current.Load()
	switch {
	case b == nil:
		return failure(reason.TLSFailure, "verify peer: no root bundle yet")
	case len(chain) == 0:
		return failure(reason.TLSFailure, "verify peer: no certificate")
	}
	k := verifiedKey{leaf: sha256.Sum256(chain[0].Raw), usage: usage}
	b.mu.Lock()
	w, ok := b.verified[k]
	b.mu.Unlock()
	if ok && w.contains(now) {
		return nil
	}
	w, err := b.prove(chain, usage, now)
	if err != nil {
		return &Error{Reason: reason.TLSFailure, Err: fmt.Errorf("verify peer: %w", err)}
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	if len(b.verified) >= verifiedMax {
		clear(b.verified)
	}
	b.verified[k] = w
	return nil
}

// prove builds a chain to the bundle and returns when all of it is valid.
func (b *bundle) prove(chain []*x509.Certificate, usage x509.ExtKeyUsage, now time.Time) (window, error) {
	inter := x509.NewCertPool()
	for _, c := range chain[1:] {
		inter.AddCert(c)
	}
	paths, err := chain[0].Verify(x509.VerifyOptions{
		Roots: b.pool, Intermediates: inter, CurrentTime: now, KeyUsages: []x509.ExtKeyUsage{usage},
	})
	if err != nil {
		return window{}, err
	}
	w := window{notBefore: chain[0].NotBefore, notAfter: chain[0].NotAfter}
	for _, c := range paths[0] {
		if c.NotBefore.After(w.notBefore) {
			w.notBefore = c.NotBefore
		}
		if c.NotAfter.Before(w.notAfter) {
			w.notAfter = c.NotAfter
		}
	}
	return w, nil
}
