// SPDX-License-Identifier: Apache-2.0

package ca

import (
	"sync"
	"time"
)

// Rates per node. A node with 250 service accounts that lost all certificates is served within 15 s.
const (
	nodeBurst     = 100
	nodePerSecond = 10
)

// buckets limits how fast each node is answered. Nodes are those that proved themselves, so their number is
// bounded by the cluster.
type buckets struct {
	now func() time.Time

	mu     sync.Mutex
	byNode map[string]*bucket
}

type bucket struct {
	tokens float64
	filled time.Time
}

func newBuckets(now func() time.Time) *buckets {
	return &buckets{now: now, byNode: map[string]*bucket{}}
}

// take reports whether node may have one more answer now.
func (b *buckets) take(node string) bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	k := b.byNode[node]
	if k == nil {
		k = &bucket{tokens: nodeBurst}
		b.byNode[node] = k
	}
	return k.take(b.now(), nodeBurst, nodePerSecond)
}

// take takes a token from a bucket that holds up to burst, if there is one.
func (k *bucket) take(now time.Time, burst, perSecond float64) bool {
	if d := now.Sub(k.filled); d > 0 {
		k.tokens = min(burst, k.tokens+d.Seconds()*perSecond)
	}
	k.filled = now
	if k.tokens < 1 {
		return false
	}
	k.tokens--
	return true
}
