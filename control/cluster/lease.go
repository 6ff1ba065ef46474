// SPDX-License-Identifier: Apache-2.0

package cluster

import (
	"context"
	"errors"
	"sync"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/client-go/tools/leaderelection/resourcelock"
)

// lease is the lock of an election, as client-go takes, renews and releases it. It knows how long what this replica
// wrote keeps the others from writing, which client-go tells nobody, and does not release what is another's by now, which
// client-go would: it reads the lease before, and looks only at what it remembers. Safe for concurrent use.
type lease struct {
	resourcelock.Interface
	good      time.Duration // how long after a renewal this replica may write
	timeout   time.Duration // of one request: one that hangs must not cost the lease
	now, wall func() time.Time

	mu     sync.Mutex
	holder string // of the version that a write would replace
	tenure int    // grows each time the lease becomes ours after it was not
	// When the last renewal that succeeded was sent, by both clocks; zero while the lease is not ours. In a machine that was
	// stopped the monotonic clock stood still, and the wall clock is set right once it goes on.
	renewed, renewedWall time.Time
}

var errNotOurs = errors.New("the lease is another replica's by now: it stays so")

// Get implements resourcelock.Interface.
func (l *lease) Get(ctx context.Context) (*resourcelock.LeaderElectionRecord, []byte, error) {
	ctx, cancel := context.WithTimeout(ctx, l.timeout)
	defer cancel()
	r, raw, err := l.Interface.Get(ctx)
	l.mu.Lock()
	defer l.mu.Unlock()
	switch {
	case err == nil:
		l.holder = r.HolderIdentity
	case apierrors.IsNotFound(err):
		l.holder = ""
	default:
		return r, raw, err
	}
	if l.holder != l.Identity() {
		l.renewed = time.Time{}
	}
	return r, raw, err
}

// Create implements resourcelock.Interface.
func (l *lease) Create(ctx context.Context, r resourcelock.LeaderElectionRecord) error {
	return l.write(ctx, r, l.Interface.Create)
}

// Update implements resourcelock.Interface.
func (l *lease) Update(ctx context.Context, r resourcelock.LeaderElectionRecord) error {
	if r.HolderIdentity != "" {
		return l.write(ctx, r, l.Interface.Update)
	}
	l.mu.Lock()
	l.renewed = time.Time{} // from here on, whether the server hears of it or not
	ours := l.holder == l.Identity()
	l.mu.Unlock()
	if !ours {
		return errNotOurs
	}
	ctx, cancel := context.WithTimeout(ctx, l.timeout)
	defer cancel()
	return l.Interface.Update(ctx, r)
}

// write makes the lease ours, or keeps it so.
func (l *lease) write(ctx context.Context, r resourcelock.LeaderElectionRecord, write func(context.Context, resourcelock.LeaderElectionRecord) error) error {
	ctx, cancel := context.WithTimeout(ctx, l.timeout)
	defer cancel()
	sent, wall := l.now(), l.wall()
	if err := write(ctx, r); err != nil {
		return err
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.leftLocked() <= 0 {
		l.tenure++
	}
	l.holder, l.renewed, l.renewedWall = r.HolderIdentity, sent, wall
	return nil
}

// current is the present or, if the lease is not ours, the last tenure.
func (l *lease) current() (tenure int) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.tenure
}

// left is how long this replica may still write without another renewal, in that tenure.
func (l *lease) left(tenure int) time.Duration {
	l.mu.Lock()
	defer l.mu.Unlock()
	if tenure != l.tenure {
		return 0
	}
	return l.leftLocked()
}

func (l *lease) leftLocked() time.Duration {
	if l.renewed.IsZero() {
		return 0
	}
	return l.good - max(l.now().Sub(l.renewed), l.wall().Sub(l.renewedWall))
}
