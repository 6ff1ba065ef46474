// SPDX-License-Identifier: Apache-2.0

package ca

import (
	"bytes"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"io/fs"
	"slices"
)

// Names of the authority's own files. Key and certificate share a file so that one write replaces both.
const (
	RootFile    = "root.pem"
	IssuingFile = "issuing.pem"
	// BundleFile holds roots to trust besides that of whatever signs: those that come, or go.
	BundleFile = "bundle.pem"
	// CRLFile holds the operator's revocation lists.
	CRLFile = "ca-crl.pem"
)

// Names of the files of an authority that the operator brings: those of Istio's Secret cacerts, or those of
// kubernetes.io/tls and cert-manager. With any of them there, nothing is made and nothing written.
const (
	cacertsCert, cacertsKey, cacertsChain, cacertsRoots = "ca-cert.pem", "ca-key.pem", "cert-chain.pem", "root-cert.pem"
	tlsCert, tlsKey, tlsRoots                           = "tls.crt", "tls.key", "ca.crt"
)

// keyFiles must be readable by nobody else.
var keyFiles = []string{RootFile, IssuingFile, cacertsKey, tlsKey}

var errMissing = errors.New("file is missing")

// Storage is where an authority's files lie. Safe for concurrent use, by several processes too.
type Storage interface {
	// Open returns the files. What others write until Close is kept out, or makes our writes fail.
	Open() (Files, error)
}

// Files are the authority's.
type Files interface {
	// Read returns a copy of a file's content; fs.ErrNotExist when it is missing.
	Read(name string) ([]byte, error)
	// Write replaces a file, whole or not at all. Files with keys are shown to nobody else.
	Write(name string, data []byte) error
	// Writable is nil, or why this process must not write now.
	Writable() error
	// Path names a file in messages.
	Path(name string) string
	Close()
}

// present returns which of the named files are there.
func present(f Files, names ...string) (there []string, err error) {
	for _, name := range names {
		data, err := f.Read(name)
		clear(data)
		switch {
		case err == nil:
			there = append(there, name)
		case !errors.Is(err, fs.ErrNotExist):
			return nil, err
		}
	}
	return there, nil
}

func writePair(f Files, name string, p *keyPair) error {
	der, err := x509.MarshalPKCS8PrivateKey(p.key)
	if err != nil {
		return err
	}
	defer clear(der)
	data := pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der})
	defer clear(data)
	return f.Write(name, append(data, certPEM(p.cert)...))
}

// readPair reads a key and its certificate. A missing file is errMissing; remedy ends what errors say.
func readPair(f Files, name, remedy string) (*keyPair, error) {
	data, err := f.Read(name)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("%s: %w (%s)", f.Path(name), errMissing, remedy)
	}
	if err != nil {
		return nil, err
	}
	defer clear(data)
	p, err := parsePair(data)
	if err != nil {
		return nil, fmt.Errorf("%s: %w (%s)", f.Path(name), err, remedy)
	}
	return p, nil
}

func parsePair(data []byte) (*keyPair, error) {
	var p keyPair
	for block, rest := pem.Decode(data); block != nil; block, rest = pem.Decode(rest) {
		switch block.Type {
		case "CERTIFICATE":
			c, err := x509.ParseCertificate(block.Bytes)
			if err != nil {
				return nil, fmt.Errorf("parse certificate: %w", err)
			}
			p.cert = c
		default:
			k, err := parseKey(block)
			clear(block.Bytes)
			if err != nil {
				return nil, err
			}
			p.key = k
		}
	}
	if p.key == nil || p.cert == nil {
		return nil, errors.New("no key or no certificate in it")
	}
	if !p.belongs() {
		return nil, errors.New("key and certificate do not belong together")
	}
	return &p, nil
}

// readCerts reads a file of CA certificates; none when it is missing.
func readCerts(f Files, name string) ([]*x509.Certificate, error) {
	data, err := f.Read(name)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	var out []*x509.Certificate
	for block, rest := pem.Decode(data); block != nil; block, rest = pem.Decode(rest) {
		if block.Type != "CERTIFICATE" {
			return nil, fmt.Errorf("%s: block %q is no certificate", f.Path(name), block.Type)
		}
		c, err := x509.ParseCertificate(block.Bytes)
		if err != nil {
			return nil, fmt.Errorf("%s: certificate %d: %w", f.Path(name), len(out)+1, err)
		}
		if !c.IsCA || !c.BasicConstraintsValid {
			return nil, fmt.Errorf("%s: certificate %d (%s) is not a CA's", f.Path(name), len(out)+1, c.Subject)
		}
		out = append(out, c)
	}
	if len(out) == 0 {
		return nil, fmt.Errorf("%s: no certificate in it (remove the file if none is meant)", f.Path(name))
	}
	return out, nil
}

// union is a and what of b is not in it.
func union(a, b []*x509.Certificate) []*x509.Certificate {
	out := slices.Clone(a)
	for _, c := range b {
		if !slices.ContainsFunc(out, c.Equal) {
			out = append(out, c)
		}
	}
	return out
}

func certsPEM(certs []*x509.Certificate) []byte {
	var b bytes.Buffer
	for _, c := range certs {
		b.Write(certPEM(c))
	}
	return b.Bytes()
}
