// SPDX-License-Identifier: Apache-2.0

package identity

import (
	"context"
	"math/rand/v2"
	"sync"
	"time"

	"github.com/warren-mesh/warren/mesh/reason"
)

// The pace of fetching (ambient's numbers; reference: ztunnel's SecretManager).
const (
	parallel     = 8
	fetchTimeout = 15 * time.Second
	backoffFirst = 500 * time.Millisecond
	backoffMax   = 150 * time.Second
	// retireTime is how long a replaced key stays for handshakes that picked it just before.
	retireTime = 10 * time.Second
	// moveTime is how long the move to another root takes at most, give or take failures.
	moveTime = 5 * time.Minute
	// lookAgain bounds the sleep between two looks at the clock, which may be set or stand still while a
	// machine is suspended.
	lookAgain = 30 * time.Second
)

// Run fetches and renews until ctx ends, then erases every key.
func (s *Store) Run(ctx context.Context) error {
	var children sync.WaitGroup
	children.Go(func() { _ = s.cfg.Roots.Run(ctx) })
	defer s.end()
	defer children.Wait()
	roots := s.cfg.Roots.Watch()
	for {
		t := time.NewTimer(s.dispatch(ctx, &children))
		select {
		case <-ctx.Done():
			t.Stop()
			return nil
		case <-roots:
			roots = s.cfg.Roots.Watch() // before the look at the bundle: the next change must not be missed
			s.rootsChanged()
		case <-s.wake:
		case <-t.C:
		}
		t.Stop()
	}
}

func (s *Store) end() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.ended = true
	for _, e := range s.entries {
		s.forget(e)
	}
}

// poke makes Run look at the entries again.
func (s *Store) poke() {
	select {
	case s.wake <- struct{}{}:
	default:
	}
}

// dispatch starts what is due and may run, and returns how long nothing else will be.
func (s *Store) dispatch(ctx context.Context, children *sync.WaitGroup) time.Duration {
	s.mu.Lock()
	defer s.mu.Unlock()
	now := s.cfg.Now()
	wait := s.eraseRetired(now)
	if s.cfg.Roots.current.Load() == nil {
		return wait // nothing could be verified
	}
	for s.running < parallel {
		e := s.mostUrgent(now)
		if e == nil {
			break
		}
		var fetching context.Context
		fetching, e.cancel = context.WithTimeout(ctx, fetchTimeout)
		e.last = now
		s.running++
		children.Go(func() { s.fetch(fetching, e) })
	}
	if s.running >= parallel {
		return wait // the next one that ends pokes
	}
	for _, e := range s.entries {
		if e.cancel == nil {
			wait = min(wait, max(e.next.Sub(now), 0))
		}
	}
	return wait
}

func (s *Store) fetch(ctx context.Context, e *entry) {
	start := time.Now()
	c, k, err := s.request(ctx, e)
	s.metrics.duration.Observe(time.Since(start).Seconds())
	if s.finish(e, c, k, err) && s.cfg.Moved != nil {
		s.cfg.Moved(e.id)
	}
}

func (s *Store) request(ctx context.Context, e *entry) (*certificate, *key, error) {
	k, err := newKey()
	if err != nil {
		return nil, nil, err
	}
	csr, err := newCSR(e.id, k)
	if err != nil {
		return nil, k, err
	}
	chain, err := s.cfg.Fetcher.Fetch(ctx, e.id, csr)
	if err != nil {
		return nil, k, err
	}
	c, err := newCertificate(e.id, k, chain, s.cfg.Roots, s.cfg.Now())
	if err != nil {
		return nil, k, failure(reason.NoCertificate, "use the CA's answer: %w", err)
	}
	return c, k, nil
}

// finish takes a fetch's result, and reports whether it moved the identity to another root. On failure the present
// certificate stays.
func (s *Store) finish(e *entry, c *certificate, k *key, err error) (moved bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	defer s.poke()
	now := s.cfg.Now()
	s.running--
	e.cancel()
	e.cancel = nil
	if (e.gone || err != nil) && k != nil {
		k.erase()
	}
	if e.gone {
		return false
	}
	e.err = err
	if err != nil {
		e.failures++
		pause := backoff(e.failures)
		if e.warming > 0 {
			pause = min(pause, warmPause)
		}
		e.next = now.Add(pause)
		s.metrics.failed(err)
		s.cfg.Log.Warn("certificate not fetched", "identity", e.id.String(), "err", err,
			"next", e.next.Sub(now).Round(time.Millisecond), "have_valid", e.current.Load().valid(now))
	} else {
		if old := e.current.Swap(c); old != nil {
			e.retired = append(e.retired, retired{key: old.key, until: now.Add(retireTime)})
			moved = !old.root.Equal(c.root)
		}
		e.failures, e.next = 0, c.renew
		s.metrics.fetched.Inc()
		s.cfg.Log.Info("certificate fetched", "identity", e.id.String(), "serial", serial(c.leaf),
			"not_after", c.leaf.NotAfter, "renew", c.renew, "root", fingerprint(c.root))
	}
	close(e.changed)
	e.changed = make(chan struct{})
	return moved
}

// eraseRetired erases replaced keys whose time is over and returns how long until the next is.
func (s *Store) eraseRetired(now time.Time) time.Duration {
	wait := lookAgain
	for _, e := range s.entries {
		kept := e.retired[:0]
		for _, r := range e.retired {
			if r.until.After(now) {
				kept = append(kept, r)
				wait = min(wait, r.until.Sub(now))
			} else {
				r.key.erase()
			}
		}
		e.retired = kept
	}
	return wait
}

// rootsChanged renews what the new bundle does not verify, and tries at once what failed under the old. The bundle's
// first root is the one that the authority signs under: what is of another moves to it, within a moment or a few
// minutes, so that all nodes do not ask together.
func (s *Store) rootsChanged() {
	s.mu.Lock()
	defer s.mu.Unlock()
	now, first := s.cfg.Now(), s.cfg.Roots.current.Load().certs[0]
	for _, e := range s.entries {
		c := e.current.Load()
		if c == nil || e.err != nil {
			e.failures, e.next = 0, now
			continue
		}
		root, err := c.verify(s.cfg.Roots, now)
		switch {
		case err != nil:
			e.failures, e.next = 0, now
		case !root.Equal(first):
			spread := min(moveTime, c.leaf.NotAfter.Sub(c.leaf.NotBefore)/10)
			if at := now.Add(rand.N(spread + 1)); at.Before(e.next) {
				e.next = at
			}
		}
	}
}
