// SPDX-License-Identifier: Apache-2.0

package metrics

import (
	"maps"
	"sync"
	"sync/atomic"
	"time"

	"github.com/warren-mesh/warren/mesh/reason"
)

const (
	// MaxLabelSets bounds the label sets of the connection metrics, each of which has five series.
	MaxLabelSets = 4000
	// staleAfter is how long a label set is told after the last of its connections.
	staleAfter = time.Hour
	// Overflow is the value of labels that are not told apart any more.
	Overflow = "overflow"
	// share is which part of the label sets one workload may have: it must not use up those of the others.
	share = 4
)

// Series are the counters of one set of labels. They outlive its label set: what is counted goes where the labels
// lead that are shown at that time. Safe for concurrent use.
type Series struct {
	Opened, Closed, Failed Counter
	Sent, Received         Counter // bytes

	table *table
	owner owner
	seen  time.Time // guarded by table.mu
	// touched since seen was set.
	touched atomic.Bool
	// merged is where this one went when labels were dropped; guarded by table.mu.
	merged *Series
}

// Counter is one number of a Series.
type Counter struct {
	series *Series
	of     func(*Series) *Counter
	n      atomic.Uint64
}

var counters = [...]func(*Series) *Counter{
	func(s *Series) *Counter { return &s.Opened }, func(s *Series) *Counter { return &s.Closed }, func(s *Series) *Counter { return &s.Failed },
	func(s *Series) *Counter { return &s.Sent }, func(s *Series) *Counter { return &s.Received },
}

func (t *table) newSeries(o owner) *Series {
	s := &Series{table: t, owner: o, seen: t.now()}
	for _, of := range counters {
		c := of(s)
		c.series, c.of = s, of
	}
	s.touched.Store(true)
	return s
}

// Add counts n.
func (c *Counter) Add(n uint64) {
	t := c.series.table
	t.mu.RLock()
	s := c.series.last()
	c.of(s).n.Add(n)
	s.touched.Store(true)
	t.mu.RUnlock()
}

// Load returns what was counted so far.
func (c *Counter) Load() uint64 {
	t := c.series.table
	t.mu.RLock()
	defer t.mu.RUnlock()
	return c.of(c.series.last()).n.Load()
}

// owner is the workload on this node that a label set is charged to.
type owner struct {
	reporter            Reporter
	namespace, workload string
}

func ownerOf(l *Labels) owner {
	local := &l.Destination
	if l.Reporter == Source {
		local = &l.Source
	}
	return owner{l.Reporter, local.Namespace, local.Workload}
}

// last is where the counters stand now; table.mu is held.
func (s *Series) last() *Series {
	for s.merged != nil {
		s = s.merged
	}
	return s
}

// take adds what o counted; table.mu is held.
func (s *Series) take(o *Series) {
	for _, of := range counters {
		of(s).n.Add(of(o).n.Load())
	}
	s.touched.Store(true)
}

// table is every label set, bounded.
type table struct {
	max int
	now func() time.Time

	mu      sync.RWMutex
	columns columns
	series  map[Labels]*Series // by trimmed labels
	owned   map[owner]int
	swept   time.Time
	// overflowed counts the look-ups that found no room.
	overflowed atomic.Uint64
}

func newTable(limit int, now func() time.Time) *table {
	return &table{max: limit, now: now, columns: columnsWithout(nil), series: map[Labels]*Series{}, owned: map[owner]int{}}
}

// get returns the counters of l; those of Overflow when there is no room for another label set.
func (t *table) get(l Labels) *Series {
	l.Reason = flagReason(l.Reason)
	t.mu.RLock()
	s := t.series[t.columns.trim(l)]
	if s != nil {
		s.touched.Store(true)
	}
	t.mu.RUnlock()
	if s != nil {
		return s
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.make(l)
}

// make finds or adds l; mu is held.
func (t *table) make(l Labels) *Series {
	key, o := t.columns.trim(l), ownerOf(&l)
	if s := t.series[key]; s != nil {
		s.touched.Store(true)
		return s
	}
	if t.full(o) {
		t.sweep(time.Second)
	}
	if t.full(o) {
		t.overflowed.Add(1)
		o, key = owner{}, t.columns.trim(overflow(l))
		if s := t.series[key]; s != nil {
			s.touched.Store(true)
			return s
		}
	}
	s := t.newSeries(o)
	t.series[key] = s
	t.owned[o]++
	return s
}

// full reports whether o may have no further label set. Those of Overflow are few, and always find room.
func (t *table) full(o owner) bool {
	return len(t.series)-t.owned[owner{}] >= t.max || t.owned[o] >= max(t.max/share, 1)
}

// overflow keeps what has few values.
func overflow(l Labels) Labels {
	all := Peer{Overflow, Overflow, Overflow, Overflow, Overflow, Overflow, Overflow, Overflow}
	l.Source, l.Destination, l.ServiceHost = all, all, Overflow
	l.Service.Namespace, l.Service.Name = Overflow, Overflow
	return l
}

// sweep drops what no connection lives for and none was counted for in a long time; not more often than every. mu is held.
func (t *table) sweep(every time.Duration) {
	now := t.now()
	if now.Sub(t.swept) < every {
		return
	}
	t.swept = now
	for l, s := range t.series {
		switch {
		case s.touched.Swap(false), s.Opened.n.Load() > s.Closed.n.Load():
			s.seen = now
		case now.Sub(s.seen) >= staleAfter:
			delete(t.series, l)
			t.disown(s.owner)
		}
	}
}

func (t *table) disown(o owner) {
	if t.owned[o]--; t.owned[o] == 0 {
		delete(t.owned, o)
	}
}

// drop leaves labels out from now on; label sets that can't be told apart any more become one. Labels that come back
// are unknown to what was counted without them: its sets start afresh once they are told apart.
func (t *table) drop(names []string) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.columns = columnsWithout(names)
	old := t.series
	t.series, t.owned = make(map[Labels]*Series, len(old)), map[owner]int{}
	for l, s := range old {
		key := t.columns.trim(l)
		into := t.series[key]
		if into == nil {
			t.series[key] = s
			t.owned[s.owner]++
			continue
		}
		into.take(s)
		s.merged = into
	}
}

// all is every label set and what it counted, and which labels are shown.
func (t *table) all() (map[Labels]*Series, columns) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.sweep(0)
	return maps.Clone(t.series), t.columns
}

// flagReason keeps one reason for each response flag, so that equal label values share one series.
func flagReason(r reason.Reason) reason.Reason { return firstOf[responseFlags(r)] }

// firstOf is the first reason of each response flag.
var firstOf = func() map[string]reason.Reason {
	out := map[string]reason.Reason{}
	for i := range reason.Reason(reason.Max) {
		if f := responseFlags(i); f != noFlag {
			if _, ok := out[f]; !ok {
				out[f] = i
			}
		}
	}
	return out
}()
