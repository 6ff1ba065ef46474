// SPDX-License-Identifier: Apache-2.0

package zds

import (
	"context"
	"sync"
)

// ackQueue hands acks to whoever receives them without ever making a connection wait: of several for one
// pod the latest counts.
type ackQueue struct {
	out  chan Ack
	wake chan struct{}

	mu     sync.Mutex
	order  []string
	latest map[string]Ack
}

func newAckQueue() *ackQueue {
	return &ackQueue{out: make(chan Ack), wake: make(chan struct{}, 1), latest: make(map[string]Ack)}
}

func (q *ackQueue) put(a Ack) {
	q.mu.Lock()
	if _, waits := q.latest[a.UID]; !waits {
		q.order = append(q.order, a.UID)
	}
	q.latest[a.UID] = a
	q.mu.Unlock()
	select {
	case q.wake <- struct{}{}:
	default:
	}
}

func (q *ackQueue) take() (Ack, bool) {
	q.mu.Lock()
	defer q.mu.Unlock()
	if len(q.order) == 0 {
		return Ack{}, false
	}
	a := q.latest[q.order[0]]
	delete(q.latest, a.UID)
	q.order = q.order[1:]
	return a, true
}

func (q *ackQueue) run(ctx context.Context) {
	for {
		a, ok := q.take()
		if !ok {
			select {
			case <-q.wake:
				continue
			case <-ctx.Done():
				return
			}
		}
		select {
		case q.out <- a:
		case <-ctx.Done():
			q.put(a)
			return
		}
	}
}
