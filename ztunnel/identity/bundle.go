// SPDX-License-Identifier: Apache-2.0

package identity

import (
	"crypto/sha256"
	"crypto/x509"
	"encoding/hex"
	"encoding/pem"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/warren-mesh/warren/mesh/reason"
	"github.com/warren-mesh/warren/mesh/revocation"
)

// verifiedMax bounds the cache of verified chains; beyond it the cache starts afresh.
const verifiedMax = 4096

// bundle is one state of roots and revocation lists, with the chains it verified. Its generation is its address:
// another bundle has another cache.
type bundle struct {
	pool  *x509.CertPool
	certs []*x509.Certificate
	lists *revocation.Lists

	mu       sync.Mutex
	verified map[verifiedKey]proof
}

// proof is what verified a leaf.
type proof struct {
	window
	root *x509.Certificate
}

type verifiedKey struct {
	leaf  [sha256.Size]byte
	usage x509.ExtKeyUsage
}

// window is when every certificate of a verified chain is valid.
type window struct{ notBefore, notAfter time.Time }

func (w window) contains(t time.Time) bool { return !t.Before(w.notBefore) && !t.After(w.notAfter) }

func parseBundle(data []byte) (*bundle, error) {
	b := &bundle{pool: x509.NewCertPool(), verified: map[verifiedKey]proof{}}
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

// verify checks a peer's chain, leaf first, at the time now, and returns its root. A leaf is verified once per bundle
// and usage; then only the dates of the chain that proved it are looked at.
func (r *Roots) verify(chain []*x509.Certificate, usage x509.ExtKeyUsage, now time.Time) (*x509.Certificate, error) {
	b := r.current.Load()
	switch {
	case b == nil:
		return nil, failure(reason.TLSFailure, "verify peer: no root bundle yet")
	case len(chain) == 0:
		return nil, failure(reason.TLSFailure, "verify peer: no certificate")
	}
	k := verifiedKey{leaf: sha256.Sum256(chain[0].Raw), usage: usage}
	b.mu.Lock()
	p, ok := b.verified[k]
	b.mu.Unlock()
	if ok && p.contains(now) {
		return p.root, nil
	}
	p, err := b.prove(chain, usage, now)
	if err != nil {
		why := reason.TLSFailure
		if errors.Is(err, revocation.ErrRevoked) {
			why = reason.CertificateRevoked
		}
		return nil, &Error{Reason: why, Err: fmt.Errorf("verify peer: %w", err)}
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	if len(b.verified) >= verifiedMax {
		clear(b.verified)
	}
	b.verified[k] = p
	return p.root, nil
}

// prove builds a chain to the bundle with nothing in it that was revoked, and returns when all of it is valid.
func (b *bundle) prove(chain []*x509.Certificate, usage x509.ExtKeyUsage, now time.Time) (proof, error) {
	inter := x509.NewCertPool()
	for _, c := range chain[1:] {
		inter.AddCert(c)
	}
	paths, err := chain[0].Verify(x509.VerifyOptions{
		Roots: b.pool, Intermediates: inter, CurrentTime: now, KeyUsages: []x509.ExtKeyUsage{usage},
	})
	if err != nil {
		return proof{}, err
	}
	var revoked error
	for _, path := range paths {
		if err := b.lists.Check(path); err != nil {
			revoked = err
			continue
		}
		return proof{window: windowOf(path), root: path[len(path)-1]}, nil
	}
	return proof{}, revoked
}

func windowOf(path []*x509.Certificate) window {
	w := window{notBefore: path[0].NotBefore, notAfter: path[0].NotAfter}
	for _, c := range path[1:] {
		if c.NotBefore.After(w.notBefore) {
			w.notBefore = c.NotBefore
		}
		if c.NotAfter.Before(w.notAfter) {
			w.notAfter = c.NotAfter
		}
	}
	return w
}

// fingerprint names a root in logs and metrics, as control does: the first 16 digits of its SHA-256.
func fingerprint(c *x509.Certificate) string {
	sum := sha256.Sum256(c.Raw)
	return hex.EncodeToString(sum[:8])
}
