// SPDX-License-Identifier: Apache-2.0

package broker

import (
	"log/slog"
	"time"
)

const (
	choreFirst = 100 * time.Millisecond // between a failure and the next try, doubled with each more
	choreMost  = 10 * time.Second
	choreText  = 512 // bytes of an error that are reported
)

// chore is work of the loop that is tried until it succeeds, less and less often. The zero value has not failed.
type chore struct {
	what    string
	failure string // of the last try, "" after a success
	wait    time.Duration
	next    time.Time
}

// due reports whether another try makes sense.
func (c *chore) due(now time.Time) bool { return !now.Before(c.next) }

// tried notes how a try ended. A failure is logged when it is another than the last one's, and so is the end of it.
func (c *chore) tried(err error, now time.Time, log *slog.Logger) {
	if err == nil {
		if c.failure != "" {
			log.Info("works again", "what", c.what)
		}
		*c = chore{what: c.what}
		return
	}
	c.wait = min(max(2*c.wait, choreFirst), choreMost)
	c.next = now.Add(c.wait)
	failure := err.Error()
	failure = failure[:min(len(failure), choreText)]
	if failure != c.failure {
		c.failure = failure
		log.Error("failed, and is tried again", "what", c.what, "err", err)
	}
}

// failures says what is failing now.
func failures(chores ...*chore) (out []string) {
	for _, c := range chores {
		if c.failure != "" {
			out = append(out, c.what+": "+c.failure)
		}
	}
	return out
}
