// SPDX-License-Identifier: Apache-2.0

package identity

import (
	"context"
	"errors"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/warren-mesh/warren/mesh"
)

// TestWarmWaitsForEachCertificate: for those that are wanted, as long as they are, until time is over.
func TestWarmWaitsForEachCertificate(t *testing.T) {
	a := newAuthority(t, time.Now)
	release := make(chan struct{})
	a.set(func(a *authority) {
		a.hook = func(ctx context.Context, id mesh.Identity) error {
			if id == sa("there") {
				return nil
			}
			select {
			case <-release:
				return nil
			case <-ctx.Done():
				return ctx.Err()
			}
		}
	})
	s := newStore(t, a, fixedRoots(a.pem()), time.Now)
	if missing := s.Warm(t.Context()); missing != nil {
		t.Errorf("with none wanted: %v is missing", missing)
	}
	for _, id := range []string{"there", "late", "leaves"} {
		s.Want(sa(id))
	}
	over, cancel := context.WithCancel(t.Context())
	eventually(t, "the first certificate", func() bool { return info(s, sa("there")).State == StateAvailable })
	cancel()
	missing := s.Warm(over)
	slices.SortFunc(missing, func(a, b mesh.Identity) int { return len(a.ServiceAccount) - len(b.ServiceAccount) })
	if want := []mesh.Identity{sa("late"), sa("leaves")}; !slices.Equal(missing, want) {
		t.Errorf("when time is over: %v is missing, want %v", missing, want)
	}

	waited := make(chan []mesh.Identity, 1)
	go func() { waited <- s.Warm(t.Context()) }()
	eventually(t, "it to wait", func() bool { return warming(s) == 3 })
	s.Forget(sa("leaves"))
	close(release)
	if missing := <-waited; missing != nil {
		t.Errorf("once all are there or gone: %v is missing", missing)
	}
	if i := info(s, sa("late")); i.State != StateAvailable {
		t.Errorf("it did not wait for the late one: %+v", i)
	}
}

// TestWarmNoticesAnAuthorityThatComesBack: the pause between attempts does not grow while Warm waits.
func TestWarmNoticesAnAuthorityThatComesBack(t *testing.T) {
	ck := newClock()
	a := newAuthority(t, ck.now)
	a.set(func(a *authority) {
		a.hook = func(context.Context, mesh.Identity) error { return errors.New("control is away") }
	})
	s := newStore(t, a, fixedRoots(a.pem()), ck.now)
	ids := []mesh.Identity{sa("x"), sa("y"), sa("z")}
	for _, id := range ids {
		s.Want(id)
	}
	ctx, cancel := context.WithCancel(t.Context())
	waited := make(chan []mesh.Identity, 1)
	go func() { waited <- s.Warm(ctx) }()
	eventually(t, "it to wait", func() bool { return warming(s) == len(ids) })
	for n := 1; n <= 8; n++ {
		for _, id := range ids {
			eventually(t, "an attempt", func() bool { return failures(s, id) >= n })
			if pause := info(s, id).Renew.Sub(ck.now()); n > 1 && pause > warmPause {
				t.Fatalf("%s: after %d failures the next attempt is in %v, want %v at most", id, n, pause, warmPause)
			}
		}
		ck.advance(warmPause)
		s.poke()
	}
	cancel()
	missing := <-waited
	slices.SortFunc(missing, func(a, b mesh.Identity) int { return strings.Compare(a.ServiceAccount, b.ServiceAccount) })
	if !slices.Equal(missing, ids) {
		t.Errorf("%v is missing, want %v", missing, ids)
	}
}

// TestWarmEndsAPauseThatBeganBefore: one of minutes, from failures before anybody waited, would outlast Warm's time.
func TestWarmEndsAPauseThatBeganBefore(t *testing.T) {
	ck := newClock()
	a := newAuthority(t, ck.now)
	a.set(func(a *authority) {
		a.hook = func(context.Context, mesh.Identity) error { return errors.New("control is away") }
	})
	s := newStore(t, a, fixedRoots(a.pem()), ck.now)
	id := sa("x")
	s.Want(id)
	for n := 1; info(s, id).Renew.Sub(ck.now()) <= 10*warmPause; n++ {
		ck.advance(backoffMax)
		s.poke()
		eventually(t, "an attempt", func() bool { return failures(s, id) >= n })
	}
	a.set(func(a *authority) { a.hook = nil })
	waited := make(chan []mesh.Identity, 1)
	go func() { waited <- s.Warm(t.Context()) }()
	eventually(t, "it to wait", func() bool { return warming(s) == 1 })
	if pause := info(s, id).Renew.Sub(ck.now()); pause > warmPause {
		t.Errorf("the next attempt is in %v, want %v at most", pause, warmPause)
	}
	ck.advance(warmPause)
	s.poke()
	select {
	case missing := <-waited:
		if missing != nil {
			t.Errorf("%v is missing", missing)
		}
	case <-time.After(10 * time.Second):
		t.Error("no attempt was made")
	}
}

func warming(s *Store) (n int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, e := range s.entries {
		n += e.warming
	}
	return n
}
