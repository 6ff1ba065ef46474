// SPDX-License-Identifier: Apache-2.0

package inpod

import (
	"context"
	"sync"
)

// eventQueue is a channel without a bound: a slow reader must not hold up the sockets that arrive on the same
// connection. What it holds is bounded by the pods of the node.
type eventQueue struct {
	out chan Event

	mu      sync.Mutex
	waiting []Event
	wake    chan struct{}
}

func newEventQueue() *eventQueue {
	return &eventQueue{out: make(chan Event), wake: make(chan struct{}, 1)}
}

func (q *eventQueue) put(e Event) {
	q.mu.Lock()
	q.waiting = append(q.waiting, e)
	q.mu.Unlock()
	select {
	case q.wake <- struct{}{}:
	default:
	}
}

// run feeds the channel until ctx ends.
func (q *eventQueue) run(ctx context.Context) {
	for {
		q.mu.Lock()
		batch := q.waiting
		q.waiting = nil
		q.mu.Unlock()
		for _, e := range batch {
			select {
			case q.out <- e:
			case <-ctx.Done():
				return
			}
		}
		if len(batch) > 0 {
			continue
		}
		select {
		case <-q.wake:
		case <-ctx.Done():
			return
		}
	}
}
