// SPDX-License-Identifier: Apache-2.0

package ca

import (
	"sync"
	"time"

	"github.com/warren-mesh/warren/mesh/reason"
)

// Rates of log lines about one kind of refusal that costs its cause nothing.
const (
	linesBurst     = 20
	linesPerSecond = 1
)

// lines bounds what is logged of callers that prove nothing, and of those that ask too often: they may come as often
// as they like, and must not fill the log. Each kind has a bound of its own, so that strangers silence no node. Safe
// for concurrent use.
type lines struct {
	now func() time.Time

	mu     sync.Mutex
	byKind map[reason.Reason]*kind
}

type kind struct {
	bucket
	unsaid uint64 // since the last line
}

func newLines(now func() time.Time) *lines {
	return &lines{now: now, byKind: map[reason.Reason]*kind{
		reason.NodeUnproven: {bucket: bucket{tokens: linesBurst}}, reason.RateLimit: {bucket: bucket{tokens: linesBurst}},
	}}
}

// take reports whether a refusal for that reason may be logged now, and how many were not since the last that was.
func (l *lines) take(why reason.Reason) (unsaid uint64, ok bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	k := l.byKind[why]
	if k == nil {
		return 0, true
	}
	if !k.bucket.take(l.now(), linesBurst, linesPerSecond) {
		k.unsaid++
		return 0, false
	}
	unsaid, k.unsaid = k.unsaid, 0
	return unsaid, true
}
