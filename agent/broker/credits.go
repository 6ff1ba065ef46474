// SPDX-License-Identifier: Apache-2.0

package broker

import (
	"sync"
	"time"
)

const (
	creditRate  = 20000 // dial sockets per second and pod: twice what one pod was measured to use up
	creditBurst = 1012  // four full batches

	// Connections to the agent and files for one ztunnel: it needs one of each now and then. The agent's descriptors
	// are at stake.
	namedRate  = 20 // per second
	namedBurst = 64

	// Pods whose listeners one ztunnel gets again: of all at once, when it let go of all.
	againRate  = 100 // per second
	againBurst = 4096
)

// credits bound how many sockets are made for one pod, so that a ztunnel in wrong hands can neither keep the
// broker busy nor starve other pods. Safe for concurrent use.
type credits struct {
	rate  float64 // per second
	burst float64

	mu   sync.Mutex
	left float64
	last time.Time
}

func newCredits(rate, burst int) *credits {
	return &credits{rate: float64(rate), burst: float64(burst), left: float64(burst)}
}

// take grants up to n, and says when asking for the rest makes sense.
func (c *credits) take(n int, now time.Time) (granted int, retry time.Duration) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if !c.last.IsZero() {
		c.left = min(c.burst, c.left+now.Sub(c.last).Seconds()*c.rate)
	}
	c.last = now
	granted = min(n, int(c.left))
	c.left -= float64(granted)
	if missing := n - granted; missing > 0 {
		retry = max(time.Duration(float64(missing)/c.rate*float64(time.Second)), time.Millisecond)
	}
	return granted, retry
}
