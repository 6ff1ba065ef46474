// SPDX-License-Identifier: Apache-2.0

package mesh

import (
	"context"
	"sync"
	"sync/atomic"
)

// Store holds the current Snapshot. Readers never block; writers are serialised. The zero value is not
// usable, see NewStore. Safe for concurrent use.
type Store struct {
	current atomic.Pointer[versioned]
	mu      sync.Mutex // serialises writers
	recent  recent
}

type versioned struct {
	*Snapshot
	changed chan struct{} // closed when a newer snapshot stands
}

// NewStore returns a store with an empty snapshot.
func NewStore() *Store {
	s := &Store{}
	s.current.Store(&versioned{Snapshot: NewSnapshot(), changed: make(chan struct{})})
	return s
}

// Snapshot returns the current snapshot.
func (s *Store) Snapshot() *Snapshot { return s.current.Load().Snapshot }

// Watch returns the current snapshot and a channel that is closed as soon as a newer one stands.
func (s *Store) Watch() (*Snapshot, <-chan struct{}) {
	v := s.current.Load()
	return v.Snapshot, v.changed
}

// Apply applies the changes as one step and returns the snapshot that results.
func (s *Store) Apply(changes ...Change) *Snapshot {
	return s.Update(func(*Snapshot) []Change { return changes })
}

// Update applies the changes f derives from the current snapshot, as one step. f must be quick and pure.
func (s *Store) Update(f func(*Snapshot) []Change) *Snapshot {
	s.mu.Lock()
	defer s.mu.Unlock()
	old := s.current.Load()
	changes := f(old.Snapshot)
	next := old.With(changes...)
	if next == old.Snapshot {
		return next
	}
	s.recent.note(next.Version(), changes)
	s.current.Store(&versioned{Snapshot: next, changed: make(chan struct{})})
	close(old.changed)
	return next
}

// Wait blocks until done reports true for the current snapshot and returns that snapshot, or ctx's error
// with the last one seen.
func (s *Store) Wait(ctx context.Context, done func(*Snapshot) bool) (*Snapshot, error) {
	for {
		snap, changed := s.Watch()
		if done(snap) {
			return snap, nil
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return snap, ctx.Err()
		}
	}
}
