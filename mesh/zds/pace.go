// SPDX-License-Identifier: Apache-2.0

package zds

import (
	"context"
	"time"
)

// pace lets a burst pass and after that one per interval: a ztunnel that reconnects in a loop must not
// take the agent's time.
type pace struct {
	every time.Duration
	slack time.Duration
	next  time.Time // when the next one would be due without slack
}

func newPace(burst int, every time.Duration) *pace {
	return &pace{every: every, slack: time.Duration(burst-1) * every}
}

// wait returns nil when the caller may go on.
func (p *pace) wait(ctx context.Context) error {
	now := time.Now()
	if p.next.Before(now) {
		p.next = now
	}
	wait := p.next.Add(-p.slack).Sub(now)
	p.next = p.next.Add(p.every)
	if wait <= 0 {
		return ctx.Err()
	}
	select {
	case <-time.After(wait):
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}
