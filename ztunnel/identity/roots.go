// SPDX-License-Identifier: Apache-2.0

package identity

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"

	"github.com/warren-mesh/warren/mesh/revocation"
)

const (
	// rootsInterval is how often the bundle is read again.
	rootsInterval = 5 * time.Second
	// rootsRetry is how often while there is none yet.
	rootsRetry = 100 * time.Millisecond
)

// ReadFunc returns a file's content; fs.ErrNotExist when there is no such file.
type ReadFunc func(context.Context) ([]byte, error)

// Roots is what the mesh trusts: a bundle of roots, and lists of certificates that were revoked. The configured files
// are the only source: what the CA sends along with a certificate is never trusted because of that. Safe for
// concurrent use.
type Roots struct {
	read    ReadFunc
	revoked ReadFunc // nil: no lists
	log     *slog.Logger
	now     func() time.Time
	current atomic.Pointer[bundle]

	mu      sync.Mutex
	raw     []byte // of the bundle
	rawList []byte
	lastErr string
	failed  map[string]uint64 // reads, by file
	changed chan struct{}     // closed when current changes
}

// NewRoots returns roots read by roots, PEM of one or more CA certificates, and revocation lists read by revoked, where
// that is not nil. Nothing is trusted until the first Refresh succeeded.
func NewRoots(roots, revoked ReadFunc, log *slog.Logger) *Roots {
	return &Roots{read: roots, revoked: revoked, log: log, now: time.Now, changed: make(chan struct{}), failed: map[string]uint64{}}
}

// Known reports whether there is a bundle to verify by.
func (r *Roots) Known() bool { return r.current.Load() != nil }

// Refresh reads the files again. One that can't be read or is damaged is an error; the last good one stays. Before
// the first answer about revocation lists, good or none, nothing is trusted.
func (r *Roots) Refresh(ctx context.Context) error {
	data, err := r.read(ctx)
	listed, listErr := r.readLists(ctx)
	r.mu.Lock()
	defer r.mu.Unlock()
	last := r.current.Load()
	if err != nil && listErr == nil && listed == nil && last != nil && last.lists != nil {
		// Where both lie is gone, or not to be reached: that takes back no list.
		listErr = errors.New("missing together with the roots")
	}
	b, err := r.nextBundle(last, data, err)
	lists, listErr := r.nextLists(last, listed, listErr)
	known := last != nil || lists != nil || listErr == nil
	if b != nil && known && (b != last || lists != last.lists) {
		r.take(b, lists)
	}
	return errors.Join(err, listErr)
}

func (r *Roots) nextBundle(last *bundle, data []byte, err error) (*bundle, error) {
	if err == nil && last != nil && bytes.Equal(r.raw, data) {
		return last, nil
	}
	var b *bundle
	if err == nil {
		b, err = parseBundle(data)
	}
	if err != nil {
		r.failed["roots"]++
		return last, fmt.Errorf("read root bundle: %w", err)
	}
	r.raw = bytes.Clone(data)
	return b, nil
}

func (r *Roots) nextLists(last *bundle, data []byte, err error) (lists *revocation.Lists, _ error) {
	var before *revocation.Lists
	if last != nil {
		before = last.lists
	}
	lists = before
	if err == nil && (last == nil || !bytes.Equal(r.rawList, data) || before.Stale(r.now())) {
		if lists, err = revocation.Next(before, data, r.now()); before != nil && bytes.Equal(r.rawList, data) {
			lists = before // out of date, and no other is there
		}
	}
	if err != nil {
		r.failed["crl"]++
		err = fmt.Errorf("read revocation lists: %w", err)
	}
	if lists != before {
		r.rawList = bytes.Clone(data)
	}
	return lists, err
}

func (r *Roots) readLists(ctx context.Context) ([]byte, error) {
	if r.revoked == nil {
		return nil, nil
	}
	data, err := r.revoked(ctx)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	return data, err
}

// take begins to go by a bundle and lists; mu is held.
func (r *Roots) take(b *bundle, lists *revocation.Lists) {
	r.current.Store(&bundle{pool: b.pool, certs: b.certs, lists: lists, verified: map[verifiedKey]proof{}})
	close(r.changed)
	r.changed = make(chan struct{})
	r.log.Info("trust changed", "roots", len(b.certs), "first_root", fingerprint(b.certs[0]), "revoked", lists.Len())
}

// Run refreshes until ctx ends; each new complaint is logged once.
func (r *Roots) Run(ctx context.Context) error {
	for {
		err := r.Refresh(ctx)
		if ctx.Err() != nil {
			return nil
		}
		r.complain(err)
		wait := rootsInterval
		if r.current.Load() == nil {
			wait = rootsRetry
		}
		select {
		case <-ctx.Done():
			return nil
		case <-time.After(wait):
		}
	}
}

func (r *Roots) complain(err error) {
	text := ""
	if err != nil {
		text = err.Error()
	}
	r.mu.Lock()
	again := text == r.lastErr
	r.lastErr = text
	r.mu.Unlock()
	if text != "" && !again {
		r.log.Warn("trust not read, the last good stays", "err", text, "have_one", r.current.Load() != nil)
	}
}

// Watch returns a channel that is closed when what is trusted changes.
func (r *Roots) Watch() <-chan struct{} {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.changed
}
