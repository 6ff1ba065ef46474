// SPDX-License-Identifier: Apache-2.0

package identity

import (
	"context"
	"crypto/tls"
	"errors"

	"log/slog"
	"sync"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/warren-mesh/warren/mesh"
	"github.com/warren-mesh/warren/mesh/reason"
)

// Fetcher gets a certificate for id: the chain in PEM, leaf first, the CA's roots last.
type Fetcher interface {
	Fetch(ctx context.Context, id mesh.Identity, csr []byte) (chainPEM []string, err error)
}

// Config of a Store; Fetcher and Roots are required.
type Config struct {
	Fetcher Fetcher
	// Roots is run by the store's Run.
	Roots *Roots
	// Own are the aliases of the trust domain of the identities here; nil means none.
	Own Aliases
	// Moved is called when an identity's certificate is of another root than its former one: what was proven with
	// that will be worth nothing once its root goes. nil: nobody cares.
	Moved func(mesh.Identity)
	// Now is the clock; nil means time.Now.
	Now func() time.Time
	// Log receives fetches and failures; nil discards them.
	Log *slog.Logger
	// Registerer gets the metrics; nil keeps them to the store.
	Registerer prometheus.Registerer
}

// maxWait is how long a configuration waits for its first certificate when the caller sets no earlier deadline.
const maxWait = 10 * time.Second

// Store keeps one certificate per wanted identity: it fetches it, renews it at half its life while the old
// one serves, and erases the key when the identity is forgotten. Safe for concurrent use.
type Store struct {
	cfg     Config
	metrics *metrics
	wake    chan struct{} // one pending wake-up of Run

	mu      sync.Mutex
	entries map[mesh.Identity]*entry
	running int // fetches under way
	ended   bool
}

// entry is one wanted identity. All fields but id and current are guarded by Store.mu.
type entry struct {
	id      mesh.Identity
	current atomic.Pointer[certificate] // nil before the first fetch and after Forget

	gone     bool
	cancel   context.CancelFunc // of the fetch under way
	last     time.Time          // when the last fetch began
	next     time.Time          // when the next may begin
	failures int
	err      error // of the last fetch
	waiters  int
	warming  int           // calls of Warm that wait for it
	changed  chan struct{} // closed on every new certificate or failure, and when forgotten
	retired  []retired
	server   *tls.Config
}

// retired is a replaced key that a handshake under way may still be about to use.
type retired struct {
	key   *key
	until time.Time
}

// New returns an empty store. It fetches only while Run runs.
func New(cfg Config) *Store {
	if cfg.Now == nil {
		cfg.Now = time.Now
	}
	if cfg.Log == nil {
		cfg.Log = slog.New(slog.DiscardHandler)
	}
	s := &Store{cfg: cfg, wake: make(chan struct{}, 1), entries: map[mesh.Identity]*entry{}}
	s.metrics = newMetrics(cfg.Registerer, s)
	return s
}

// Want begins to keep a certificate for id; the first is fetched ahead of use. Wanting twice is wanting once:
// the caller knows when the last workload of an identity goes.
func (s *Store) Want(id mesh.Identity) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.entries[id] != nil || s.ended || id.IsZero() {
		return
	}
	e := &entry{id: id, next: s.cfg.Now(), changed: make(chan struct{})}
	e.server = s.serverConfig(e)
	s.entries[id] = e
	s.poke()
}

// Forget erases the key of id. Configurations made for it can't shake hands any more; connections that
// already did are not touched.
func (s *Store) Forget(id mesh.Identity) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if e := s.entries[id]; e != nil {
		s.forget(e)
	}
}

func (s *Store) forget(e *entry) {
	delete(s.entries, e.id)
	e.gone = true
	if e.cancel != nil {
		e.cancel()
	}
	if c := e.current.Swap(nil); c != nil {
		c.key.erase()
	}
	for _, r := range e.retired {
		r.key.erase()
	}
	e.retired = nil
	close(e.changed)
}

// acquire returns id's entry once it has a valid certificate. While it waits, the fetch goes before all that
// nobody waits for.
func (s *Store) acquire(ctx context.Context, id mesh.Identity) (*entry, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	e := s.entries[id]
	if e == nil {
		return nil, failure(reason.NoCertificate, "certificate of %s: no captured workload here has that identity", id)
	}
	if e.current.Load().valid(s.cfg.Now()) {
		return e, nil
	}
	ctx, cancel := context.WithTimeout(ctx, maxWait)
	defer cancel()
	s.hasten(e)
	e.waiters++
	defer func() { e.waiters-- }()
	for {
		changed := e.changed
		s.mu.Unlock()
		select {
		case <-changed:
		case <-ctx.Done():
		}
		s.mu.Lock()
		switch {
		case e.gone:
			return nil, failure(reason.NoCertificate, "certificate of %s: its last workload is gone", id)
		case e.current.Load().valid(s.cfg.Now()):
			return e, nil
		case ctx.Err() != nil:
			return nil, failure(reason.NoCertificate, "certificate of %s: %w", id, errors.Join(ctx.Err(), e.err, s.noRoots()))
		}
	}
}

func (s *Store) noRoots() error {
	if s.cfg.Roots.current.Load() == nil {
		return errors.New("no root bundle yet")
	}
	return nil
}

// show returns the certificate to present now.
func (e *entry) show(now time.Time) (*tls.Certificate, error) {
	c := e.current.Load()
	if !c.valid(now) {
		return nil, failure(reason.NoCertificate, "present certificate of %s: none is valid", e.id)
	}
	return &c.tls, nil
}
