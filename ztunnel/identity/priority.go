// SPDX-License-Identifier: Apache-2.0

package identity

import (
	"math/rand/v2"
	"time"
)

// priority orders fetches that are due; greater goes first.
type priority uint8

const (
	background priority = iota // a valid certificate is renewed
	warmup                     // there is none, or not for much longer, and nobody waits for it yet
	realTime                   // a connection waits
)

func (e *entry) priority(now time.Time) priority {
	switch {
	case e.waiters > 0:
		return realTime
	case e.current.Load().lasting(now):
		return background
	default:
		return warmup
	}
}

// mostUrgent returns the entry that should be fetched next, or nil when none is due.
func (s *Store) mostUrgent(now time.Time) *entry {
	var best *entry
	for _, e := range s.entries {
		if e.cancel != nil || e.next.After(now) {
			continue
		}
		if best == nil || e.priority(now) > best.priority(now) ||
			e.priority(now) == best.priority(now) && e.next.Before(best.next) {
			best = e
		}
	}
	return best
}

// hasten lets a connection that begins to wait have its attempt at once and the backoff start afresh, but
// never sooner than the shortest backoff after the last attempt: a pod that dials in a loop doesn't make us
// call control in one.
func (s *Store) hasten(e *entry) {
	if e.waiters == 0 {
		e.failures = 0
	}
	if soonest := e.last.Add(backoffFirst); e.next.After(soonest) {
		e.next = soonest
	}
	s.poke()
}

// backoff after n failures: doubling, and half of it drawn by lot so that nodes do not come back in step.
func backoff(n int) time.Duration {
	d := backoffMax
	if n < 10 {
		d = min(backoffFirst<<(n-1), backoffMax)
	}
	return d/2 + rand.N(d/2+1)
}
