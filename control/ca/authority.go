// SPDX-License-Identifier: Apache-2.0

// Package ca is the mesh's certificate authority: a root and an issuing intermediate kept in a directory,
// and the gRPC service through which nodes get certificates for the pods scheduled on them.
package ca

import (
	"crypto/x509"
	"encoding/hex"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"time"

	"github.com/warren-mesh/warren/mesh"
)

// Lifetimes. A leaf never outlives the certificate that signed it.
const (
	// DefaultLeafTTL is what a request that names no lifetime gets, and the most any request gets.
	DefaultLeafTTL = 24 * time.Hour
	// MinLeafTTL is the least: shorter ones would be renewed all the time.
	MinLeafTTL = time.Minute
	rootTTL    = 10 * 365 * 24 * time.Hour
	issuingTTL = 365 * 24 * time.Hour
	// backdate lets a verifier's clock be behind ours.
	backdate = time.Minute
	// rotateCheck is how often Run looks at the storage.
	rotateCheck = time.Hour
)

// Config of an Authority.
type Config struct {
	// Dir holds root.pem, issuing.pem (key and certificate each, 0600) and bundle.pem (0644). It is made if
	// it is missing; empty, it is filled with a new authority.
	Dir string
	// Storage holds the three files instead of Dir, when it is not nil.
	Storage Storage
	// Check is how often Run looks at the storage, for what others wrote and for a rotation that is due;
	// 0 means an hour.
	Check time.Duration
	// TrustDomain of every identity issued; "" means mesh.DefaultTrustDomain.
	TrustDomain string
	// LeafTTL is the default and largest lifetime of a leaf; 0 means DefaultLeafTTL.
	LeafTTL time.Duration
	// Now is the clock; nil means time.Now.
	Now func() time.Time
	// Log receives life-cycle events; nil discards them.
	Log *slog.Logger
}

// Authority issues certificates. Safe for concurrent use.
type Authority struct {
	cfg Config

	mu      sync.RWMutex
	root    *keyPair
	issuing *keyPair
	bundle  []byte
}

// Open loads the authority of cfg.Dir, or makes one where the directory is empty. A directory that is
// damaged, incomplete or readable by others is refused with the file's name and what to do about it; nothing
// is ever replaced because it could not be read.
func Open(cfg Config) (*Authority, error) {
	if cfg.TrustDomain == "" {
		cfg.TrustDomain = mesh.DefaultTrustDomain
	}
	if cfg.LeafTTL == 0 {
		cfg.LeafTTL = DefaultLeafTTL
	}
	if cfg.Now == nil {
		cfg.Now = time.Now
	}
	if cfg.Storage == nil {
		cfg.Storage = dirStorage(cfg.Dir)
	}
	if cfg.Check == 0 {
		cfg.Check = rotateCheck
	}
	if cfg.Log == nil {
		cfg.Log = slog.New(slog.DiscardHandler)
	}
	if cfg.LeafTTL < MinLeafTTL || cfg.LeafTTL > issuingTTL/4 {
		return nil, fmt.Errorf("open CA: leaf lifetime %v is outside %v..%v", cfg.LeafTTL, MinLeafTTL, issuingTTL/4)
	}
	a := &Authority{cfg: cfg}
	if err := a.open(); err != nil {
		return nil, fmt.Errorf("open CA: %w", err)
	}
	return a, nil
}

func (a *Authority) open() error {
	f, err := a.cfg.Storage.Open()
	if err != nil {
		return err
	}
	defer f.Close()
	now := a.cfg.Now()
	fresh, err := empty(f)
	if err != nil {
		return err
	}
	if fresh {
		if err := f.Writable(); err != nil {
			return err
		}
		if err := create(f, a.cfg.TrustDomain, now); err != nil {
			return err
		}
		a.cfg.Log.Info("made a new certificate authority", "root", f.Path(RootFile), "trust_domain", a.cfg.TrustDomain)
	}
	if err := a.load(f, now); err != nil {
		return err
	}
	return a.rotateOpen(f, now)
}

// create writes a new root and its first intermediate. issuing.pem comes last: root.pem alone is an
// authority too (its intermediate is made when it is loaded), so a crash in between leaves nothing damaged.
func create(f Files, trustDomain string, now time.Time) error {
	root, err := newRoot(trustDomain, now)
	if err != nil {
		return err
	}
	if err := writePair(f, RootFile, root); err != nil {
		return err
	}
	return f.Write(BundleFile, certPEM(root.cert))
}

// load reads and checks all files.
func (a *Authority) load(f Files, now time.Time) error {
	root, err := readPair(f, RootFile, "restore it from a backup, or empty the directory to begin a new authority, from which every node and workload must then get new certificates")
	if err != nil {
		return err
	}
	if err := checkRoot(root, now); err != nil {
		return fmt.Errorf("%s: %w", f.Path(RootFile), err)
	}
	bundle, err := readBundle(f, root)
	if err != nil {
		return err
	}
	issuing, err := readPair(f, IssuingFile, "remove it to have a new one made")
	if err != nil && !errors.Is(err, errMissing) {
		return err
	}
	if issuing != nil {
		if err := issuing.cert.CheckSignatureFrom(root.cert); err != nil {
			return fmt.Errorf("%s: not signed by %s: %w (remove it to have a new one made)", f.Path(IssuingFile), RootFile, err)
		}
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	a.root, a.issuing, a.bundle = root, issuing, bundle
	return nil
}

// Bundle returns the PEM of the roots that verify everything issued here.
func (a *Authority) Bundle() []byte {
	a.mu.RLock()
	defer a.mu.RUnlock()
	return a.bundle
}

// TrustDomain of every identity issued.
func (a *Authority) TrustDomain() string { return a.cfg.TrustDomain }

func serial(c *x509.Certificate) string { return hex.EncodeToString(c.SerialNumber.Bytes()) }
