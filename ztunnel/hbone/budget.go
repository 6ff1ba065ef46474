// SPDX-License-Identifier: Apache-2.0

package hbone

import "sync/atomic"

// Budget bounds the bytes that wait in memory for slow applications. A stream that would exceed it is reset with
// ENHANCE_YOUR_CALM. Safe for concurrent use.
type Budget struct {
	limit int64
	used  atomic.Int64
}

// NewBudget returns a budget of limit bytes.
func NewBudget(limit int64) *Budget { return &Budget{limit: limit} }

// Used is how many bytes wait now.
func (b *Budget) Used() int64 { return b.used.Load() }

// Limit is how many may.
func (b *Budget) Limit() int64 { return b.limit }

// Count adds to what waits, below zero takes away from it, without regard to the limit: for what waits elsewhere for the same
// pod.
func (b *Budget) Count(n int) { b.used.Add(int64(n)) }

func (b *Budget) take(n int) bool {
	if b.used.Add(int64(n)) > b.limit {
		b.used.Add(-int64(n))
		return false
	}
	return true
}

func (b *Budget) give(n int) { b.used.Add(-int64(n)) }
