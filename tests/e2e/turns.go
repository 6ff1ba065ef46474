// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"sync"
	"testing"
)

// turns is the order in which tests that share the mesh begin, so many at once: those that take minutes first, or the run
// would end with them alone. Go's own order among parallel tests is none to rely on. The time a test waits for its turn is
// in what Go says of its duration.
type turns struct {
	mu      sync.Mutex
	changed *sync.Cond
	free    int
	long    int // registered, and not begun
}

func newTurns(atOnce int) *turns {
	q := &turns{free: atOnce}
	q.changed = sync.NewCond(&q.mu)
	return q
}

// take waits until the test may run; it gives its turn back when the test has ended. Every test registers before the first
// is let past t.Parallel.
func (q *turns) take(t *testing.T, long bool) {
	q.register(long)
	t.Parallel()
	q.begin(long)
	t.Cleanup(q.end)
}

func (q *turns) register(long bool) {
	q.mu.Lock()
	defer q.mu.Unlock()
	if long {
		q.long++
	}
}

func (q *turns) begin(long bool) {
	q.mu.Lock()
	defer q.mu.Unlock()
	for q.free == 0 || !long && q.long > 0 {
		q.changed.Wait()
	}
	q.free--
	if long {
		q.long--
		q.changed.Broadcast()
	}
}

func (q *turns) end() {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.free++
	q.changed.Broadcast()
}
