// SPDX-License-Identifier: Apache-2.0

// Package revocation reads an authority's lists of certificates that are not to be trusted any more (RFC 5280
// section 5), and checks paths of certificates against them. Control and ztunnel judge by it alike.
package revocation

import (
	"bytes"
	"crypto/sha256"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"fmt"
	"sync"
	"time"
)

// Lists are revocation lists, of one issuer or several. Immutable, safe for concurrent use; nil is none.
type Lists struct{ lists []*list }

type list struct {
	*x509.RevocationList
	revoked map[string]time.Time // by serial number's bytes: since when

	mu     sync.Mutex
	proven map[[sha256.Size]byte]error // by the hash of an issuer's certificate: whether it signed the list
}

// ErrRevoked is the error of a path with a certificate that was revoked.
var ErrRevoked = errors.New("certificate is revoked")

// Parse reads lists, PEM blocks "X509 CRL" or one in DER. Empty data are no lists: nil. What could not be judged by
// completely is an error: delta lists, critical extensions.
func Parse(data []byte) (*Lists, error) {
	if len(bytes.TrimSpace(data)) == 0 {
		return nil, nil
	}
	out := &Lists{}
	add := func(der []byte) error {
		l, err := parse(der)
		if err != nil {
			return fmt.Errorf("revocation list %d: %w", len(out.lists)+1, err)
		}
		out.lists = append(out.lists, l)
		return nil
	}
	block, rest := pem.Decode(data)
	if block == nil {
		return out, add(data)
	}
	for ; block != nil; block, rest = pem.Decode(rest) {
		if block.Type != "X509 CRL" {
			return nil, fmt.Errorf("revocation lists: unexpected PEM block %q", block.Type)
		}
		if err := add(block.Bytes); err != nil {
			return nil, err
		}
	}
	if len(bytes.TrimSpace(rest)) > 0 {
		return nil, fmt.Errorf("revocation lists: %d bytes after list %d are no PEM", len(rest), len(out.lists))
	}
	return out, nil
}

func parse(der []byte) (*list, error) {
	crl, err := x509.ParseRevocationList(der)
	if err != nil {
		return nil, err
	}
	if crl.NextUpdate.IsZero() {
		return nil, errors.New("it does not say when the next one is due (nextUpdate)")
	}
	if err := understood(crl.Extensions); err != nil {
		return nil, err
	}
	l := &list{RevocationList: crl, revoked: map[string]time.Time{}, proven: map[[sha256.Size]byte]error{}}
	for _, e := range crl.RevokedCertificateEntries {
		if err := understood(e.Extensions); err != nil {
			return nil, err
		}
		l.revoked[string(e.SerialNumber.Bytes())] = e.RevocationTime
	}
	return l, nil
}

// understood refuses critical extensions: all of them narrow or shift what a list says (RFC 5280 section 5.2).
func understood(extensions []pkix.Extension) error {
	for _, e := range extensions {
		if e.Critical {
			return fmt.Errorf("it has the critical extension %v, which is not understood (only complete lists of one issuer are)", e.Id)
		}
	}
	return nil
}

// Next is what to judge by after data were read, when it was last until now. An error is why data are not used as
// they are; next is right all the same, and nil with an error only where last was nil and data could not be read.
//
// Data that can't be read, and lists that were out of date already when they came, leave last in force. Lists that
// are out of date and all there is are used: whom they name is revoked, however old they are.
func Next(last *Lists, data []byte, now time.Time) (next *Lists, err error) {
	next, err = Parse(data)
	switch {
	case err != nil:
		return last, err
	case !next.Stale(now):
		return next, nil
	}
	err = fmt.Errorf("revocation list is out of date: the next was due at %s", next.NextUpdate().Format(time.RFC3339))
	if last != nil && !last.Stale(now) {
		return last, err
	}
	return next, err
}

// NextUpdate is when the first of the lists is out of date; zero for none.
func (ls *Lists) NextUpdate() (first time.Time) {
	if ls == nil {
		return
	}
	for _, l := range ls.lists {
		if first.IsZero() || l.NextUpdate.Before(first) {
			first = l.NextUpdate
		}
	}
	return first
}

// Stale reports whether a list is out of date.
func (ls *Lists) Stale(now time.Time) bool {
	next := ls.NextUpdate()
	return !next.IsZero() && now.After(next)
}

// Len is the number of certificates revoked.
func (ls *Lists) Len() (n int) {
	if ls == nil {
		return 0
	}
	for _, l := range ls.lists {
		n += len(l.revoked)
	}
	return n
}

// PEM is the text of the lists; nil for none.
func (ls *Lists) PEM() []byte {
	if ls == nil {
		return nil
	}
	var b bytes.Buffer
	for _, l := range ls.lists {
		_ = pem.Encode(&b, &pem.Block{Type: "X509 CRL", Bytes: l.Raw})
	}
	return b.Bytes()
}

// Check looks for revoked certificates in a verified path, the leaf first and its root last. A list that should be
// of a certificate's issuer and was not signed by it is an error as well. What is on no list is not revoked.
func (ls *Lists) Check(path []*x509.Certificate) error {
	if ls == nil {
		return nil
	}
	for i, c := range path[:max(len(path)-1, 0)] {
		issuer := path[i+1]
		for _, l := range ls.lists {
			if !l.of(issuer) {
				continue
			}
			if err := l.signedBy(issuer); err != nil {
				return err
			}
			if at, ok := l.revoked[string(c.SerialNumber.Bytes())]; ok {
				return fmt.Errorf("%w: serial %x of %s, since %s", ErrRevoked, c.SerialNumber, issuer.Subject, at.Format(time.RFC3339))
			}
		}
	}
	return nil
}

// Strangers checks the signatures of the lists by those of the authorities that signed one, and returns the issuers
// of the others.
func (ls *Lists) Strangers(authorities []*x509.Certificate) (strangers []string, err error) {
	if ls == nil {
		return nil, nil
	}
	for _, l := range ls.lists {
		known := false
		for _, a := range authorities {
			if l.of(a) {
				known = true
				if err := l.signedBy(a); err != nil {
					return nil, err
				}
			}
		}
		if !known {
			strangers = append(strangers, l.Issuer.String())
		}
	}
	return strangers, nil
}

// of reports whether the list says it is by the authority: by its key's id where both name one (authorities that
// succeed each other share their name), else by name.
func (l *list) of(authority *x509.Certificate) bool {
	if len(l.AuthorityKeyId) > 0 && len(authority.SubjectKeyId) > 0 {
		return bytes.Equal(l.AuthorityKeyId, authority.SubjectKeyId)
	}
	return bytes.Equal(l.RawIssuer, authority.RawSubject)
}

func (l *list) signedBy(authority *x509.Certificate) error {
	k := sha256.Sum256(authority.Raw)
	l.mu.Lock()
	defer l.mu.Unlock()
	err, ok := l.proven[k]
	if !ok {
		if err = l.CheckSignatureFrom(authority); err != nil {
			err = fmt.Errorf("revocation list of %s: signature: %w", l.Issuer, err)
		}
		if len(l.proven) > 64 { // an authority has few certificates, but whoever shows them is a stranger
			clear(l.proven)
		}
		l.proven[k] = err
	}
	return err
}
