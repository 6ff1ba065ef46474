// SPDX-License-Identifier: Apache-2.0

package broker

import (
	"context"
	"sync"
)

// stateQueue is a channel without a bound that keeps only the newest state of each pod, in order of first
// arrival.
type stateQueue struct {
	out chan State

	mu     sync.Mutex
	latest map[string]State
	order  []string
	wake   chan struct{}
}

func newStateQueue() *stateQueue {
	return &stateQueue{out: make(chan State), latest: map[string]State{}, wake: make(chan struct{}, 1)}
}

func (q *stateQueue) put(s State) {
	q.mu.Lock()
	if _, waiting := q.latest[s.UID]; !waiting {
		q.order = append(q.order, s.UID)
	}
	q.latest[s.UID] = s
	q.mu.Unlock()
	select {
	case q.wake <- struct{}{}:
	default:
	}
}

func (q *stateQueue) take() (State, bool) {
	q.mu.Lock()
	defer q.mu.Unlock()
	if len(q.order) == 0 {
		return State{}, false
	}
	uid := q.order[0]
	q.order = q.order[1:]
	s := q.latest[uid]
	delete(q.latest, uid)
	return s, true
}

// run feeds the channel until ctx ends.
func (q *stateQueue) run(ctx context.Context) {
	for {
		s, ok := q.take()
		if !ok {
			select {
			case <-q.wake:
				continue
			case <-ctx.Done():
				return
			}
		}
		select {
		case q.out <- s:
		case <-ctx.Done():
			return
		}
	}
}
