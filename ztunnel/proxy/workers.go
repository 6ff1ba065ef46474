// SPDX-License-Identifier: Apache-2.0

package proxy

import "sync/atomic"

// idleWorkers is how many workers wait for more to do; further ones end.
const idleWorkers = 16

// workers are goroutines for what needs much stack and, mostly, little time: the beginning and the end of connections. A
// new goroutine would grow its stack anew each time, and one that stayed with the connection would keep it.
type workers struct {
	jobs chan func()
	idle atomic.Int32
	done chan struct{} // closed when there is no more to do
}

func newWorkers() *workers { return &workers{jobs: make(chan func()), done: make(chan struct{})} }

// do runs job at once, beside the caller.
func (w *workers) do(job func()) {
	select {
	case w.jobs <- job:
	default:
		go w.run(job)
	}
}

func (w *workers) run(job func()) {
	for {
		job()
		job = nil // and what it holds
		if w.idle.Add(1) > idleWorkers {
			w.idle.Add(-1)
			return
		}
		select {
		case job = <-w.jobs:
			w.idle.Add(-1)
		case <-w.done:
			return
		}
	}
}
