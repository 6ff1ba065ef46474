// SPDX-License-Identifier: Apache-2.0

package ca

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"io/fs"
)

// Names of the authority's files. Key and certificate share a file so that one write replaces both.
const (
	RootFile    = "root.pem"
	IssuingFile = "issuing.pem"
	BundleFile  = "bundle.pem"
)

var errMissing = errors.New("file is missing")

// Storage is where an authority's files lie. Safe for concurrent use, by several processes too.
type Storage interface {
	// Open returns the files. What others write until Close is kept out, or makes our writes fail.
	Open() (Files, error)
}

// Files are the authority's three: RootFile, IssuingFile, BundleFile.
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

// empty reports whether none of the authority's files is there.
func empty(f Files) (bool, error) {
	for _, name := range []string{RootFile, IssuingFile, BundleFile} {
		data, err := f.Read(name)
		clear(data)
		switch {
		case err == nil:
			return false, nil
		case !errors.Is(err, fs.ErrNotExist):
			return false, err
		}
	}
	return true, nil
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
		case "PRIVATE KEY":
			k, err := x509.ParsePKCS8PrivateKey(block.Bytes)
			clear(block.Bytes)
			if err != nil {
				return nil, fmt.Errorf("parse private key: %w", err)
			}
			ek, ok := k.(*ecdsa.PrivateKey)
			if !ok {
				return nil, fmt.Errorf("private key is a %T, want ECDSA", k)
			}
			p.key = ek
		case "CERTIFICATE":
			c, err := x509.ParseCertificate(block.Bytes)
			if err != nil {
				return nil, fmt.Errorf("parse certificate: %w", err)
			}
			p.cert = c
		default:
			return nil, fmt.Errorf("unexpected PEM block %q", block.Type)
		}
	}
	if p.key == nil || p.cert == nil {
		return nil, errors.New("no key or no certificate in it")
	}
	if !p.key.PublicKey.Equal(p.cert.PublicKey) {
		return nil, errors.New("key and certificate do not belong together")
	}
	return &p, nil
}

// readBundle reads the roots handed to verifiers. It may hold more than our root (a root being replaced),
// but ours must be there; a missing file is made from the root.
func readBundle(f Files, root *keyPair) ([]byte, error) {
	name := f.Path(BundleFile)
	data, err := f.Read(BundleFile)
	if errors.Is(err, fs.ErrNotExist) {
		data = certPEM(root.cert)
		if f.Writable() != nil {
			return data, nil
		}
		return data, f.Write(BundleFile, data)
	}
	if err != nil {
		return nil, err
	}
	var out []byte
	found := false
	for block, rest := pem.Decode(data); block != nil; block, rest = pem.Decode(rest) {
		c, err := x509.ParseCertificate(block.Bytes)
		if err != nil || block.Type != "CERTIFICATE" || !c.IsCA {
			return nil, fmt.Errorf("%s: block %q is no CA certificate (remove the file to have it made from %s)", name, block.Type, RootFile)
		}
		found = found || bytes.Equal(c.Raw, root.cert.Raw)
		out = append(out, certPEM(c)...)
	}
	if !found {
		return nil, fmt.Errorf("%s: does not hold the root of %s (remove the file to have it made anew)", name, RootFile)
	}
	return out, nil
}
