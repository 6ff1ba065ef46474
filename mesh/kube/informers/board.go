// SPDX-License-Identifier: Apache-2.0

package informers

import (
	"context"
	"maps"
	"slices"
	"sync"
	"time"

	"github.com/warren-mesh/warren/mesh/kube"
)

// board is where the kinds' watches put what they learn and Source takes it from, in steps.
type board struct {
	now func() time.Time
	// before is how many objects of a kind an earlier process knew last.
	before func(kind string) int

	mu      sync.Mutex
	kinds   []*kindCache
	live    bool            // every kind has arrived once; never false again
	pending []kube.Event    // since the last step, while live
	unsaved bool            // differs from the snapshot on disk
	away    context.Context // ends when a kind that could not be watched can be again
	back    context.CancelFunc
	wake    chan struct{} // holds one token when there is something to take
}

func newBoard(now func() time.Time, before func(kind string) int) *board {
	b := &board{now: now, before: before, wake: make(chan struct{}, 1)}
	b.away, b.back = context.WithCancel(context.Background())
	for _, k := range kinds {
		b.kinds = append(b.kinds, &kindCache{kind: k, board: b, objects: objects{}, problems: map[string][]kube.Problem{}})
	}
	return b
}

// changed notes that something did; the lock is held.
func (b *board) changed(evs ...kube.Event) {
	b.unsaved = true
	if !b.live {
		return
	}
	b.pending = append(b.pending, evs...)
	b.ring()
}

// arrived looks whether every kind has; the lock is held.
func (b *board) arrived() {
	if b.live || slices.ContainsFunc(b.kinds, func(c *kindCache) bool { return !c.synced }) {
		return
	}
	b.live = true
	b.ring()
}

// outage returns a context that ends when the server is back for some kind.
func (b *board) outage() context.Context {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.away
}

// endOutage has every pause end; the lock is held.
func (b *board) endOutage() {
	b.back()
	b.away, b.back = context.WithCancel(context.Background())
}

func (b *board) ring() {
	select {
	case b.wake <- struct{}{}:
	default:
	}
}

// take returns what happened since the last call, or everything there is; live is false while not every kind
// has arrived.
func (b *board) take(everything bool) (evs []kube.Event, problems []kube.Problem, live bool) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if !b.live {
		return nil, nil, false
	}
	evs, b.pending = b.pending, nil
	if everything {
		evs = b.everything()
	}
	return evs, b.problems(), true
}

// everything reads all objects that are kept; the lock is held.
func (b *board) everything() []kube.Event {
	var evs []kube.Event
	for _, c := range b.kinds {
		for key, data := range c.objects {
			if ev, ok := c.event(key, data); ok {
				evs = append(evs, ev)
			}
		}
	}
	return evs
}

func (b *board) problems() []kube.Problem {
	var out []kube.Problem
	for _, c := range b.kinds {
		for _, key := range slices.Sorted(maps.Keys(c.problems)) {
			out = append(out, c.problems[key]...)
		}
	}
	return out
}

// contents returns all kept objects by kind, to be written to disk, when they changed since the last call.
func (b *board) contents() (map[string]objects, bool) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if !b.live || !b.unsaved {
		return nil, false
	}
	b.unsaved = false
	out := make(map[string]objects, len(b.kinds))
	for _, c := range b.kinds {
		out[c.kind.name] = maps.Clone(c.objects)
	}
	return out, true
}

func (b *board) kind(name string) *kindCache {
	i := slices.IndexFunc(b.kinds, func(c *kindCache) bool { return c.kind.name == name })
	return b.kinds[i]
}
