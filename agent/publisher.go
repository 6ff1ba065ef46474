// SPDX-License-Identifier: Apache-2.0

package agent

import (
	"context"
	"log/slog"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/warren-mesh/warren/mesh"
	"github.com/warren-mesh/warren/mesh/kube"
	"github.com/warren-mesh/warren/mesh/retry"
)

const (
	// publishAgain doubles up to publishSeldom: the pauses before what could not be published of a pod is tried again.
	// The API server may refuse one pod for ever, by an admission policy.
	publishAgain, publishSeldom = time.Second, 8 * time.Second
	// publishAtOnce are written side by side: a namespace with a hundred pods is enrolled as a whole.
	publishAtOnce = 8
)

// publisher writes capture results outside the reconcile loop: a slow API server must hold up no capture. Of
// several values for one pod only the newest is written.
type publisher struct {
	to   kube.Publisher
	log  *slog.Logger
	wake chan struct{}

	mu      sync.Mutex
	pending map[mesh.Name]*letter // by name: of a pod and the one that took its name, the newer counts
	failed  uint64                // attempts
}

// letter is a result on its way.
type letter struct {
	publish
	failures int // in a row
	due      time.Time
	err      error
}

func newPublisher(to kube.Publisher, log *slog.Logger) *publisher {
	return &publisher{to: to, log: log, wake: make(chan struct{}, 1), pending: map[mesh.Name]*letter{}}
}

func (p *publisher) put(pod kube.LocalPod, value string) {
	p.mu.Lock()
	p.pending[mesh.Name{Namespace: pod.Namespace, Name: pod.Name}] = &letter{publish: publish{target: pod, value: value}}
	p.mu.Unlock()
	select {
	case p.wake <- struct{}{}:
	default:
	}
}

// failures returns why results are not published yet, by pod uid, and how many attempts failed in all.
func (p *publisher) failures() (map[string]string, uint64) {
	p.mu.Lock()
	defer p.mu.Unlock()
	out := map[string]string{}
	for _, l := range p.pending {
		if l.err != nil {
			out[l.target.UID] = l.err.Error()
		}
	}
	return out, p.failed
}

// Run writes until ctx ends.
func (p *publisher) Run(ctx context.Context) error {
	for {
		var again <-chan time.Time
		if due := p.flush(ctx, time.Now()); !due.IsZero() {
			again = time.After(time.Until(due))
		}
		select {
		case <-p.wake:
		case <-again:
		case <-ctx.Done():
			return nil
		}
	}
}

// flush writes what is due, and returns when the next is; zero: nothing is left.
func (p *publisher) flush(ctx context.Context, now time.Time) (next time.Time) {
	var g errgroup.Group
	g.SetLimit(publishAtOnce)
	for pod, l := range p.due(now) {
		g.Go(func() error { p.send(ctx, pod, l, now); return nil })
	}
	_ = g.Wait() // send returns no error
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, l := range p.pending {
		if next.IsZero() || l.due.Before(next) {
			next = l.due
		}
	}
	return next
}

func (p *publisher) due(now time.Time) map[mesh.Name]*letter {
	p.mu.Lock()
	defer p.mu.Unlock()
	out := map[mesh.Name]*letter{}
	for pod, l := range p.pending {
		if !now.Before(l.due) {
			out[pod] = l
		}
	}
	return out
}

// send writes one result. A failure is logged when it is another than the last.
func (p *publisher) send(ctx context.Context, pod mesh.Name, l *letter, now time.Time) {
	err := p.to.PublishCaptured(ctx, pod, l.target.UID, l.value)
	p.mu.Lock()
	defer p.mu.Unlock()
	if err == nil {
		if p.pending[pod] == l { // nothing newer came meanwhile
			delete(p.pending, pod)
		}
		return
	}
	if ctx.Err() == nil && (l.err == nil || l.err.Error() != err.Error()) {
		p.log.Warn("capture not published: others can't tell that they may send to the pod, or that they must not", "pod", pod.String(), "captured", l.value, "err", err)
	}
	l.due, l.err = now.Add(retry.Delay(l.failures, publishAgain, publishSeldom)), err
	l.failures++
	p.failed++
}
