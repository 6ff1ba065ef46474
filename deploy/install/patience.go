// SPDX-License-Identifier: Apache-2.0

package install

import "time"

// patience ends a wait in which nothing goes forward. To and fro is no way forward: of each part the best counts that it has
// been, and a wait can't last for ever.
type patience struct {
	limit time.Duration
	since time.Time
	best  map[goal]reached
}

// goal is what a part is rolled out to.
type goal struct {
	part       string
	generation int64
}

type reached struct{ done, missing int }

func newPatience(limit time.Duration, now time.Time) *patience {
	return &patience{limit, now, map[goal]reached{}}
}

// ends takes how far parts are, and reports whether none has gone forward for too long.
func (p *patience) ends(now time.Time, parts []part) bool {
	for _, x := range parts {
		if !x.observed {
			continue
		}
		at, is := goal{x.name, x.generation}, reached{x.done(), x.missing()}
		best, seen := p.best[at]
		if seen { // nodes that come make more missing, those that go less done
			is = reached{max(is.done, best.done), min(is.missing, best.missing)}
		}
		if !seen || is != best {
			p.best[at], p.since = is, now
		}
	}
	return now.Sub(p.since) >= p.limit
}
