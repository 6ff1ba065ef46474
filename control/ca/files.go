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
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"
)

// Files of the authority's directory. Key and certificate share a file so that one rename replaces both.
const (
	rootFile    = "root.pem"
	issuingFile = "issuing.pem"
	bundleFile  = "bundle.pem"
	lockFile    = "lock"
)

var errMissing = errors.New("file is missing")

// dir is the authority's directory while this process holds its lock.
type dir struct {
	name string
	lock *os.File
}

// lockDir makes the directory if needed, checks who else may write to it, and waits for its lock.
func lockDir(name string) (*dir, error) {
	if name == "" {
		return nil, errors.New("no directory given (set --ca-dir)")
	}
	if err := os.MkdirAll(name, 0o700); err != nil {
		return nil, err
	}
	st, err := os.Stat(name)
	if err != nil {
		return nil, err
	}
	if st.Mode().Perm()&0o022 != 0 {
		return nil, fmt.Errorf("%s: others may write to it, mode %04o (chmod 0700 %s)", name, st.Mode().Perm(), name)
	}
	f, err := os.OpenFile(filepath.Join(name, lockFile), os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return nil, err
	}
	if err := unix.Flock(int(f.Fd()), unix.LOCK_EX); err != nil {
		return nil, errors.Join(fmt.Errorf("lock %s: %w", f.Name(), err), f.Close())
	}
	return &dir{name: name, lock: f}, nil
}

func (d *dir) unlock() { _ = d.lock.Close() }

func (d *dir) path(file string) string { return filepath.Join(d.name, file) }

// empty reports whether none of the authority's files is there.
func (d *dir) empty() (bool, error) {
	for _, f := range []string{rootFile, issuingFile, bundleFile} {
		switch _, err := os.Lstat(d.path(f)); {
		case err == nil:
			return false, nil
		case !errors.Is(err, fs.ErrNotExist):
			return false, err
		}
	}
	return true, nil
}

// write puts a file in place by rename, synced before and after, so that a crash leaves the old or the new.
func (d *dir) write(file string, data []byte, mode fs.FileMode) (err error) {
	f, err := os.CreateTemp(d.name, "."+file+"-*") // 0600
	if err != nil {
		return err
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, os.Remove(f.Name()))
		}
	}()
	_, err = f.Write(data)
	err = errors.Join(err, f.Chmod(mode), f.Sync(), f.Close())
	if err != nil {
		return err
	}
	if err = os.Rename(f.Name(), d.path(file)); err != nil {
		return err
	}
	return syncDir(d.name)
}

func syncDir(name string) error {
	f, err := os.Open(name)
	if err != nil {
		return err
	}
	return errors.Join(f.Sync(), f.Close())
}

func (d *dir) writePair(file string, p *keyPair) error {
	der, err := x509.MarshalPKCS8PrivateKey(p.key)
	if err != nil {
		return err
	}
	defer clear(der)
	data := pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der})
	defer clear(data)
	return d.write(file, append(data, certPEM(p.cert)...), 0o600)
}

// readPair reads a key and its certificate. A missing file is errMissing; remedy ends what errors say.
func (d *dir) readPair(file, remedy string) (*keyPair, error) {
	name := d.path(file)
	st, err := os.Stat(name)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("%s: %w (%s)", name, errMissing, remedy)
	}
	if err != nil {
		return nil, err
	}
	if p := st.Mode().Perm(); p&0o077 != 0 {
		return nil, fmt.Errorf("%s: others may read the key, mode %04o (chmod 0600 %s; if it was exposed, begin a new authority)", name, p, name)
	}
	data, err := os.ReadFile(name)
	if err != nil {
		return nil, err
	}
	defer clear(data)
	p, err := parsePair(data)
	if err != nil {
		return nil, fmt.Errorf("%s: %w (%s)", name, err, remedy)
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
func (d *dir) readBundle(root *keyPair) ([]byte, error) {
	name := d.path(bundleFile)
	data, err := os.ReadFile(name)
	if errors.Is(err, fs.ErrNotExist) {
		data = certPEM(root.cert)
		return data, d.write(bundleFile, data, 0o644)
	}
	if err != nil {
		return nil, err
	}
	var out []byte
	found := false
	for block, rest := pem.Decode(data); block != nil; block, rest = pem.Decode(rest) {
		c, err := x509.ParseCertificate(block.Bytes)
		if err != nil || block.Type != "CERTIFICATE" || !c.IsCA {
			return nil, fmt.Errorf("%s: block %q is no CA certificate (remove the file to have it made from %s)", name, block.Type, rootFile)
		}
		found = found || bytes.Equal(c.Raw, root.cert.Raw)
		out = append(out, certPEM(c)...)
	}
	if !found {
		return nil, fmt.Errorf("%s: does not hold the root of %s (remove the file to have it made anew)", name, rootFile)
	}
	return out, nil
}
