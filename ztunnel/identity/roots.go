// SPDX-License-Identifier: Apache-2.0

package identity

import (
	"bytes"
	"context"
	"fmt"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"
)

const (
	// rootsInterval is how often the bundle is read again.
	rootsInterval = 5 * time.Second
	// rootsRetry is how often while there is none yet.
	rootsRetry = 100 * time.Millisecond
)

// Roots is the bundle of certificates the mesh trusts. The configured bundle is the only source: what the CA
// sends along with a certificate is never trusted because of that. Safe for concurrent use.
type Roots struct {
	read    func(context.Context) ([]byte, error)
	log     *slog.Logger
	current atomic.Pointer[bundle]

	mu      sync.Mutex
	raw     []byte
	lastErr string
	changed chan struct{} // closed when current changes
}

// NewRoots returns roots read by read, PEM of one or more CA certificates. Nothing is trusted until the first
// Refresh succeeded.
func NewRoots(read func(context.Context) ([]byte, error), log *slog.Logger) *Roots {
	return &Roots{read: read, log: log, changed: make(chan struct{})}
}

// Refresh reads the bundle again. A bundle that can't be read or is damaged is an error; the last good one stays.
func (r *Roots) Refresh(ctx context.Context) error {
	data, err := r.read(ctx)
	if err != nil {
		return fmt.Errorf("read root bundle: %w", err)
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.raw != nil && bytes.Equal(r.raw, data) {
		return nil
	}
	b, err := parseBundle(data)
	if err != nil {
		return fmt.Errorf("read root bundle: %w", err)
	}
	r.raw = bytes.Clone(data)
	r.current.Store(b)
	close(r.changed)
	r.changed = make(chan struct{})
	r.log.Info("root bundle read", "roots", len(b.certs))
	return nil
}

// Run refreshes until ctx ends; each new complaint is logged once.
func (r *Roots) Run(ctx context.Context) error {
	for {
		err := r.Refresh(ctx)
		if ctx.Err() != nil {
			return nil
		}
		r.complain(err)
		wait := rootsInterval
		if r.current.Load() == nil {
			wait = rootsRetry
		}
		select {
		case <-ctx.Done():
			return nil
		case <-time.After(wait):
		}
	}
}

func (r *Roots) complain(err error) {
	text := ""
	if err != nil {
		text = err.Error()
	}
	r.mu.Lock()
	again := text == r.lastErr
	r.lastErr = text
	r.mu.Unlock()
	if text != "" && !again {
		r.log.Warn("root bundle not read, the last good one stays", "err", text, "have_one", r.current.Load() != nil)
	}
}

// watch returns a channel that is closed when the bundle changes.
func (r *Roots) watch() <-chan struct{} {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.changed
}
