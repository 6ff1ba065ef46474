// SPDX-License-Identifier: Apache-2.0

// Package ready tells whether a process can serve, as a set of named tasks: each part marks its own task
// done, and the readiness page lists what is still pending.
package ready

import (
	"fmt"
	"net/http"
	"slices"
	"strings"
	"sync"
)

// Ready is the set of tasks of one process. Safe for concurrent use.
type Ready struct {
	mu      sync.Mutex
	pending map[string]bool // by task; false once done
	why     map[string]func() string
}

// New returns a set in which every task is pending. Without tasks it is ready at once.
func New(tasks ...string) *Ready {
	r := &Ready{pending: make(map[string]bool, len(tasks))}
	for _, t := range tasks {
		r.pending[t] = true
	}
	return r
}

// Done marks a task done. Doing so twice, or for a task that was not named, changes nothing.
func (r *Ready) Done(task string) { r.set(task, false) }

// Undo makes a task pending again: the process stopped being able to serve.
func (r *Ready) Undo(task string) { r.set(task, true) }

// Why has the page say what a pending task waits for: what the function returns, "" for nothing to say. It is called at
// each look, from any goroutine.
func (r *Ready) Why(task string, why func() string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.why == nil {
		r.why = map[string]func() string{}
	}
	r.why[task] = why
}

func (r *Ready) set(task string, pending bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if _, known := r.pending[task]; known {
		r.pending[task] = pending
	}
}

// Pending returns the tasks that are not done, sorted; empty means ready.
func (r *Ready) Pending() []string {
	r.mu.Lock()
	defer r.mu.Unlock()
	var out []string
	for t, p := range r.pending {
		if p {
			out = append(out, t)
		}
	}
	slices.Sort(out)
	return out
}

// ServeHTTP answers 200 "ready", or 500 "not ready, pending: a, b (what b waits for)".
func (r *Ready) ServeHTTP(w http.ResponseWriter, _ *http.Request) {
	if p := r.Pending(); len(p) > 0 {
		for i, task := range p {
			if why := r.because(task); why != "" {
				p[i] += " (" + why + ")"
			}
		}
		http.Error(w, "not ready, pending: "+strings.Join(p, ", "), http.StatusInternalServerError)
		return
	}
	fmt.Fprintln(w, "ready")
}

func (r *Ready) because(task string) string {
	r.mu.Lock()
	why := r.why[task]
	r.mu.Unlock()
	if why == nil {
		return ""
	}
	return why()
}
