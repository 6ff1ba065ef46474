// SPDX-License-Identifier: Apache-2.0

package tracing

import (
	"cmp"
	"sync"
)

const (
	// queueLength is how many spans wait for a slow collector before more are dropped.
	queueLength = 2048
	// podShare is how many of them may be of one pod's connections.
	podShare = queueLength / 8
)

// Why a span is not queued, as the metric's cause has it.
const (
	queueFull = "queue_full"
	shareFull = "pod_share"
)

// queue holds the spans that wait. Each pod that opens connections has a share of it: whoever picks trace ids that have
// spans, or opens many connections, takes the room of no other pod. Safe for concurrent use.
type queue struct {
	out chan *Span

	mu      sync.Mutex
	waiting map[string]int // spans in out, by whose they are
}

func newQueue() *queue {
	return &queue{out: make(chan *Span, queueLength), waiting: map[string]int{}}
}

// put takes s, or says why not. It never blocks.
func (q *queue) put(s *Span) (cause string) {
	of := s.opener()
	q.mu.Lock()
	defer q.mu.Unlock()
	if q.waiting[of] >= podShare {
		return shareFull
	}
	select {
	case q.out <- s:
		q.waiting[of]++
		return ""
	default:
		return queueFull
	}
}

// taken is to be called with each span that was read from out.
func (q *queue) taken(s *Span) {
	of := s.opener()
	q.mu.Lock()
	defer q.mu.Unlock()
	if q.waiting[of]--; q.waiting[of] <= 0 {
		delete(q.waiting, of)
	}
}

// opener is the pod that opened the connection, as well as it is known: whoever it is, it can't be another by its own word.
func (s *Span) opener() string {
	c := s.client()
	return cmp.Or(c.PodUID, c.Identity, s.Source.Addr().Unmap().String())
}
