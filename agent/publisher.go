// SPDX-License-Identifier: Apache-2.0

package agent

import (
	"context"
	"log/slog"
	"sync"
	"time"

	"github.com/warren-mesh/warren/mesh"
	"github.com/warren-mesh/warren/mesh/kube"
)

// retryPublish is the pause before what could not be published is tried again.
const retryPublish = time.Second

// publisher writes capture results outside the reconcile loop: a slow API server must hold up no capture. Of
// several values for one pod only the newest is written.
type publisher struct {
	to   kube.Publisher
	log  *slog.Logger
	wake chan struct{}

	mu      sync.Mutex
	pending map[mesh.Name]publish // by name: of a pod and the one that took its name, the newer counts
}

func newPublisher(to kube.Publisher, log *slog.Logger) *publisher {
	return &publisher{to: to, log: log, wake: make(chan struct{}, 1), pending: map[mesh.Name]publish{}}
}

func (p *publisher) put(pod kube.LocalPod, value string) {
	p.mu.Lock()
	p.pending[mesh.Name{Namespace: pod.Namespace, Name: pod.Name}] = publish{target: pod, value: value}
	p.mu.Unlock()
	select {
	case p.wake <- struct{}{}:
	default:
	}
}

// Run writes until ctx ends.
func (p *publisher) Run(ctx context.Context) error {
	for {
		var retry <-chan time.Time
		if !p.flush(ctx) {
			retry = time.After(retryPublish)
		}
		select {
		case <-p.wake:
		case <-retry:
		case <-ctx.Done():
			return nil
		}
	}
}

// flush writes everything pending and reports whether nothing is left.
func (p *publisher) flush(ctx context.Context) bool {
	p.mu.Lock()
	batch := p.pending
	p.pending = map[mesh.Name]publish{}
	p.mu.Unlock()
	done := true
	for pod, w := range batch {
		err := p.to.PublishCaptured(ctx, pod, w.target.UID, w.value)
		if err == nil {
			continue
		}
		if ctx.Err() == nil {
			p.log.Warn("publish capture", "pod", pod.String(), "captured", w.value, "err", err)
		}
		done = false
		p.mu.Lock()
		if _, newer := p.pending[pod]; !newer {
			p.pending[pod] = w
		}
		p.mu.Unlock()
	}
	return done
}
