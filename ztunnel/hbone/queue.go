// SPDX-License-Identifier: Apache-2.0

package hbone

import "sync"

const (
	smallChunk = 2 << 10
	largeChunk = 32 << 10
)

var (
	smallChunks = sync.Pool{New: func() any { return &chunk{memory: make([]byte, smallChunk)} }}
	largeChunks = sync.Pool{New: func() any { return &chunk{memory: make([]byte, largeChunk)} }}
)

// chunk is a pooled piece of a queue.
type chunk struct {
	memory []byte
	r, w   int
	budget *Budget
}

func (k *chunk) bytes() []byte { return k.memory[k.r:k.w] }

// release gives the chunk back to pool and budget.
func (k *chunk) release() {
	k.budget.give(len(k.memory))
	k.r, k.w, k.budget = 0, 0, nil
	if len(k.memory) == smallChunk {
		smallChunks.Put(k)
	} else {
		largeChunks.Put(k)
	}
}

// queue holds received bytes until somebody takes them. Memory is counted by chunk, and small frames share one, so
// a peer can't make it larger than what it may send.
type queue struct {
	chunks []*chunk
	size   int // bytes
}

// put copies the pieces, except their first skip bytes; false if the budget is used up.
func (q *queue) put(pieces [][]byte, skip int, budget *Budget) bool {
	for _, p := range pieces {
		if skip >= len(p) {
			skip -= len(p)
			continue
		}
		p = p[skip:]
		skip = 0
		for len(p) > 0 {
			k := q.room(len(p), budget)
			if k == nil {
				return false
			}
			n := copy(k.memory[k.w:], p)
			k.w += n
			q.size += n
			p = p[n:]
		}
	}
	return true
}

// room returns a chunk that has some, nil if the budget is used up.
func (q *queue) room(n int, budget *Budget) *chunk {
	if last := len(q.chunks) - 1; last >= 0 && q.chunks[last].w < len(q.chunks[last].memory) {
		return q.chunks[last]
	}
	pool, size := &smallChunks, smallChunk
	if n > smallChunk || len(q.chunks) > 0 {
		pool, size = &largeChunks, largeChunk
	}
	if !budget.take(size) {
		return nil
	}
	k := pool.Get().(*chunk)
	k.budget = budget
	q.chunks = append(q.chunks, k)
	return k
}

// take copies bytes out.
func (q *queue) take(p []byte) int {
	total := 0
	for total < len(p) && q.size > 0 {
		k := q.chunks[0]
		n := copy(p[total:], k.bytes())
		k.r += n
		total += n
		q.size -= n
		if k.r == k.w {
			q.pop().release()
		}
	}
	return total
}

// first takes the first chunk off the queue.
func (q *queue) first() *chunk {
	k := q.pop()
	q.size -= k.w - k.r
	return k
}

func (q *queue) pop() *chunk {
	k := q.chunks[0]
	q.chunks[0] = nil
	if q.chunks = q.chunks[1:]; len(q.chunks) == 0 {
		q.chunks = nil
	}
	return k
}

func (q *queue) drop() {
	for len(q.chunks) > 0 {
		q.pop().release()
	}
	q.size = 0
}
