// SPDX-License-Identifier: Apache-2.0

package ca

import (
	"bytes"
	"crypto/sha256"
	"crypto/x509"
	"encoding/hex"
	"errors"
	"fmt"
	"slices"
	"time"
)

// maxTrust bounds the bundle of roots, and the revocation lists, in bytes each: what a broker hands to ztunnel whole.
const maxTrust = 48000

// material is what an authority signs with and what verifies it, as of one look at its storage. Immutable.
type material struct {
	signing *keyPair
	// path leads from the signing certificate to its root, both included.
	path []*x509.Certificate
	// roots are all that are to be trusted.
	roots  []*x509.Certificate
	bundle []byte // of roots, PEM
	// names says that the path's constraints let control's server certificate have its DNS names.
	names   bool
	brought bool // by the operator
	crl     crl
}

// until is when the first certificate of the path expires: nothing signed may outlive it.
func (m *material) until() time.Time {
	t := m.path[0].NotAfter
	for _, c := range m.path[1:] {
		t = earlier(t, c.NotAfter)
	}
	return t
}

// shown is what goes with a leaf so that a verifier which has the root alone can build the path.
func (m *material) shown() []*x509.Certificate {
	if len(m.path) == 1 {
		return m.path // verifiers skip a root; but an answer's second element is its signer's
	}
	return m.path[:len(m.path)-1]
}

// same reports whether a look at the storage brought nothing new.
func (m *material) same(o *material) bool {
	return o != nil && m.signing.cert.Equal(o.signing.cert) && slices.EqualFunc(m.path, o.path, (*x509.Certificate).Equal) &&
		bytes.Equal(m.bundle, o.bundle) && bytes.Equal(m.crl.pem, o.crl.pem) && m.crl.known == o.crl.known
}

// read reads and checks all files. Where an authority of our own lacks what it can make, that is made, by a process
// that may write.
func (a *Authority) read(f Files, now time.Time) (*material, error) {
	brought, err := present(f, cacertsCert, cacertsKey, tlsCert, tlsKey)
	if err != nil {
		return nil, err
	}
	m := &material{}
	if len(brought) > 0 {
		m, err = readBrought(f, brought, now)
	} else {
		m, err = a.readOwn(f, now)
	}
	if err != nil {
		return nil, err
	}
	more, err := readCerts(f, BundleFile)
	if err != nil {
		return nil, err
	}
	// The root that is signed under comes first: it is how nodes know to which their certificates are to move.
	m.roots = union(union(m.path[len(m.path)-1:], m.roots), more)
	if m.bundle = certsPEM(m.roots); len(m.bundle) > maxTrust {
		return nil, fmt.Errorf("%s: %d roots are %d bytes together (at most %d)", f.Path(BundleFile), len(m.roots), len(m.bundle), maxTrust)
	}
	if m.names, err = m.try(a.cfg.TrustDomain, now); err != nil {
		name := IssuingFile
		if m.brought {
			name = brought[0]
		}
		return nil, fmt.Errorf("%s: %w", f.Path(name), err)
	}
	return m, nil
}

// readOwn reads root and intermediate. An intermediate that is missing, or in the second half of its life, is
// replaced; as long as there is one, a process that must not write leaves that to the one that does.
func (a *Authority) readOwn(f Files, now time.Time) (*material, error) {
	root, err := readPair(f, RootFile, "restore it from a backup, or empty the directory to begin a new authority, from which every node and workload must then get new certificates")
	if err != nil {
		return nil, err
	}
	if err := checkRoot(root, now); err != nil {
		return nil, fmt.Errorf("%s: %w", f.Path(RootFile), err)
	}
	issuing, err := readPair(f, IssuingFile, "remove it to have a new one made")
	if err != nil && !errors.Is(err, errMissing) {
		return nil, err
	}
	if issuing != nil {
		if err := issuing.cert.CheckSignatureFrom(root.cert); err != nil {
			return nil, fmt.Errorf("%s: not signed by %s: %w (remove it to have a new one made)", f.Path(IssuingFile), RootFile, err)
		}
	}
	if issuing == nil || rotationDue(issuing.cert, now) {
		next, err := a.nextIssuing(f, root, now)
		switch {
		case err == nil:
			issuing = next
		case issuing == nil || !now.Before(issuing.cert.NotAfter):
			return nil, err
		case f.Writable() == nil:
			a.cfg.Log.Error("issuing certificate not replaced; the present one goes on", "err", err, "not_after", issuing.cert.NotAfter)
		}
	}
	if there, err := present(f, BundleFile); err == nil && len(there) == 0 && f.Writable() == nil {
		if err := f.Write(BundleFile, certPEM(root.cert)); err != nil {
			return nil, err
		}
	}
	return &material{signing: issuing, path: []*x509.Certificate{issuing.cert, root.cert}, roots: []*x509.Certificate{root.cert}}, nil
}

func (a *Authority) nextIssuing(f Files, root *keyPair, now time.Time) (*keyPair, error) {
	if err := f.Writable(); err != nil {
		return nil, err
	}
	next, err := newIssuing(root, a.cfg.TrustDomain, now)
	if err != nil {
		return nil, err
	}
	if err := writePair(f, IssuingFile, next); err != nil {
		return nil, err
	}
	a.cfg.Log.Info("made a new issuing certificate", "serial", serial(next.cert), "not_after", next.cert.NotAfter)
	return next, nil
}

func rotationDue(c *x509.Certificate, now time.Time) bool {
	return now.After(c.NotBefore.Add(c.NotAfter.Sub(c.NotBefore) / 2))
}

// Fingerprint names a certificate in logs and metrics: the first 16 digits of what openssl x509 -fingerprint -sha256
// prints, without colons, in lower case.
func Fingerprint(c *x509.Certificate) string {
	sum := sha256.Sum256(c.Raw)
	return hex.EncodeToString(sum[:8])
}
