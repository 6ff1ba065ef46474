// SPDX-License-Identifier: Apache-2.0

package proxy

import (
	"context"
	"sync"
	"time"
)

// patience is a context that ends with its parent or after a while. Unlike one of package context it has no timer before
// somebody waits for its end: most of what may take long does not, for each connection.
type patience struct {
	context.Context // the parent
	until           time.Time

	mu    sync.Mutex
	timed context.Context // once somebody waits
	stop  context.CancelFunc
}

// patient begins the while. Call over when it no longer matters.
func patient(parent context.Context, d time.Duration) *patience {
	return &patience{Context: parent, until: time.Now().Add(d)}
}

func (p *patience) over() {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.stop != nil {
		p.stop()
	}
}

// current is the context that holds now: the parent as long as nobody waits.
func (p *patience) current(waiting bool) context.Context {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.timed == nil && (waiting || !time.Now().Before(p.until)) {
		p.timed, p.stop = context.WithDeadline(p.Context, p.until)
	}
	if p.timed != nil {
		return p.timed
	}
	return p.Context
}

func (p *patience) Done() <-chan struct{} { return p.current(true).Done() }
func (p *patience) Err() error            { return p.current(false).Err() }
func (p *patience) Value(key any) any     { return p.current(false).Value(key) }

func (p *patience) Deadline() (time.Time, bool) {
	if t, ok := p.Context.Deadline(); ok && t.Before(p.until) {
		return t, true
	}
	return p.until, true
}
