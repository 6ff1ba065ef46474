// SPDX-License-Identifier: Apache-2.0

// Package ca is the mesh's certificate authority: its own root and issuing intermediate, or a signing certificate
// that the operator brings, and the gRPC service through which nodes get certificates for the pods scheduled on them.
package ca

import (
	"crypto/x509"
	"encoding/hex"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"sync/atomic"
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
	// storageCheck is how often Run looks at the storage: what a revocation waits for at most. Of an API server it is one read
	// of one object.
	storageCheck = 5 * time.Second
)

// Config of an Authority.
type Config struct {
	// Dir holds root.pem, issuing.pem (key and certificate each, 0600) and bundle.pem (0644), or the files of an
	// authority that the operator brings. It is made if it is missing; empty, it is filled with a new authority.
	Dir string
	// Storage holds the files instead of Dir, when it is not nil.
	Storage Storage
	// Check is how often Run looks at the storage, for what others wrote and for a rotation that is due;
	// 0 means 5 s.
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
	cfg     Config
	looking sync.Mutex // one look at the storage at a time, from when it is opened: an older one must not end last
	current atomic.Pointer[material]

	mu        sync.Mutex
	problem   error
	failed    uint64        // looks at the storage
	changed   chan struct{} // closed when current or problem changes
	looked    time.Time     // when the last look that succeeded began
	listsRead time.Time     // likewise of the last that could read the revocation lists
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
		cfg.Check = storageCheck
	}
	if cfg.Log == nil {
		cfg.Log = slog.New(slog.DiscardHandler)
	}
	if cfg.LeafTTL < MinLeafTTL || cfg.LeafTTL > issuingTTL/4 {
		return nil, fmt.Errorf("open CA: leaf lifetime %v is outside %v..%v", cfg.LeafTTL, MinLeafTTL, issuingTTL/4)
	}
	a := &Authority{cfg: cfg, changed: make(chan struct{})}
	if err := a.open(); err != nil {
		return nil, fmt.Errorf("open CA: %w", err)
	}
	return a, nil
}

func (a *Authority) open() error {
	now := a.cfg.Now()
	f, err := a.cfg.Storage.Open()
	if err != nil {
		return err
	}
	defer f.Close()
	there, err := present(f, RootFile, IssuingFile, BundleFile, cacertsCert, cacertsKey, tlsCert, tlsKey)
	if err != nil {
		return err
	}
	if len(there) == 0 {
		if err := f.Writable(); err != nil {
			return err
		}
		if err := create(f, a.cfg.TrustDomain, now); err != nil {
			return err
		}
		a.cfg.Log.Info("made a new certificate authority", "root", f.Path(RootFile), "trust_domain", a.cfg.TrustDomain)
	}
	return a.take(f, now)
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

// Trust is what everybody in the mesh verifies certificates by.
type Trust struct {
	// Roots is the PEM of the roots: those that verify everything issued here, and what else is to be trusted.
	Roots []byte
	// Revoked is the PEM of the operator's revocation lists, nil for none.
	Revoked []byte
	// KeepRevoked: there are lists that could not be read since the start. What was published before stays.
	KeepRevoked bool
	// Read is when the authority's files were read: what was written to them before is in it. ListsRead is the same of
	// the revocation lists, which stay the last good ones while those in the files can't be used.
	Read, ListsRead time.Time
}

// ErrStale is why a publisher does not take a Trust: who published before may have gone by newer files. They are to be
// read first.
var ErrStale = errors.New("the authority's files are to be read first")

// Trust returns what is to be trusted now.
func (a *Authority) Trust() Trust {
	a.mu.Lock()
	looked, listsRead := a.looked, a.listsRead
	a.mu.Unlock()
	m := a.current.Load() // after: it may be newer than they say, never older
	return Trust{Roots: m.bundle, Revoked: m.crl.pem, KeepRevoked: !m.crl.known, Read: looked, ListsRead: listsRead}
}

// Problem is what is wrong with the authority's files now, and its operator should see to; nil when all is well.
func (a *Authority) Problem() error {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.problem
}

// Changed returns a channel that is closed when trust or problem change.
func (a *Authority) Changed() <-chan struct{} {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.changed
}

// TrustDomain of every identity issued.
func (a *Authority) TrustDomain() string { return a.cfg.TrustDomain }

func serial(c *x509.Certificate) string { return hex.EncodeToString(c.SerialNumber.Bytes()) }
