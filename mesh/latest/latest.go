// SPDX-License-Identifier: Apache-2.0

// Package latest is a queue that keeps only the newest value of each key: what a slow reader has not read yet is
// replaced, so it never makes a writer wait and never reads what is out of date.
package latest

import (
	"context"
	"sync"
)

// Queue delivers values in the order in which their keys first waited. Make one with New. Safe for concurrent use.
type Queue[K comparable, V any] struct {
	key  func(V) K
	out  chan V
	wake chan struct{}

	mu     sync.Mutex
	order  []K
	values map[K]V
}

// New returns an empty queue of values told apart by key.
func New[K comparable, V any](key func(V) K) *Queue[K, V] {
	return &Queue[K, V]{key: key, out: make(chan V), wake: make(chan struct{}, 1), values: map[K]V{}}
}

// Out delivers the values while Run runs. It is never closed.
func (q *Queue[K, V]) Out() <-chan V { return q.out }

// Put adds a value, in the place of one with the same key that still waits.
func (q *Queue[K, V]) Put(v V) {
	k := q.key(v)
	q.mu.Lock()
	if _, waits := q.values[k]; !waits {
		q.order = append(q.order, k)
	}
	q.values[k] = v
	q.mu.Unlock()
	select {
	case q.wake <- struct{}{}:
	default:
	}
}

func (q *Queue[K, V]) take() (v V, ok bool) {
	q.mu.Lock()
	defer q.mu.Unlock()
	if len(q.order) == 0 {
		return v, false
	}
	k := q.order[0]
	q.order = q.order[1:]
	v = q.values[k]
	delete(q.values, k)
	return v, true
}

// putBack returns a value that could not be delivered, unless a newer one waits.
func (q *Queue[K, V]) putBack(v V) {
	k := q.key(v)
	q.mu.Lock()
	defer q.mu.Unlock()
	if _, newer := q.values[k]; newer {
		return
	}
	q.order = append([]K{k}, q.order...)
	q.values[k] = v
}

// Run feeds Out until ctx ends. What was not delivered stays for the next Run.
func (q *Queue[K, V]) Run(ctx context.Context) {
	for {
		v, ok := q.take()
		if !ok {
			select {
			case <-q.wake:
				continue
			case <-ctx.Done():
				return
			}
		}
		select {
		case q.out <- v:
		case <-ctx.Done():
			q.putBack(v)
			return
		}
	}
}
