// SPDX-License-Identifier: Apache-2.0

package identity

import (
	"context"
	"maps"
	"slices"
	"time"

	"github.com/warren-mesh/warren/mesh"
)

// warmPause bounds the pause after a failed fetch of an identity that Warm waits for: a CA that comes back is to be noticed
// while there is time left.
const warmPause = 2 * time.Second

// Warm waits until each identity that is wanted now has a valid certificate or is wanted no more, or until ctx ends. It
// returns those without.
func (s *Store) Warm(ctx context.Context) (missing []mesh.Identity) {
	s.mu.Lock()
	defer s.mu.Unlock()
	all := slices.Collect(maps.Values(s.entries))
	soonest := s.cfg.Now().Add(warmPause)
	for _, e := range all { // of all of them the pauses are short, one that runs as well: they are waited for together
		e.warming++
		if !e.current.Load().valid(s.cfg.Now()) && e.next.After(soonest) {
			e.next = soonest
		}
	}
	s.poke()
	defer func() {
		for _, e := range all {
			e.warming--
		}
	}()
	for _, e := range all {
		if !s.warm(ctx, e) {
			missing = append(missing, e.id)
		}
	}
	return missing
}

// warm waits for one; mu is held, but not while it waits.
func (s *Store) warm(ctx context.Context, e *entry) bool {
	for !e.gone && !e.current.Load().valid(s.cfg.Now()) {
		if ctx.Err() != nil {
			return false
		}
		changed := e.changed
		s.mu.Unlock()
		select {
		case <-changed:
		case <-ctx.Done():
		}
		s.mu.Lock()
	}
	return true
}
