// SPDX-License-Identifier: Apache-2.0

package cluster

import (
	"cmp"
	"context"
	"errors"
	"maps"
	"net/url"
	"slices"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/warren-mesh/warren/mesh"
	"github.com/warren-mesh/warren/mesh/retry"
)

const (
	// copiesInterval is how often it is looked which namespaces need a copy; a pass over them that takes longer
	// is begun anew, so that one which waits for a slow webhook keeps others back no longer than that.
	copiesInterval = 10 * time.Second
	// A namespace in which it fails is tried again after copyRetry, then twice as long each time up to copyPatience.
	copyRetry    = time.Second
	copyPatience = 5 * time.Minute
)

// copies are the ConfigMaps of the namespaces other than control's own. What fails in one is its owner's doing: a
// quota, a webhook, an immutable ConfigMap of that name. It is told, tried again later and later, and stops nothing else.
type copies struct {
	cfg   BundleConfig
	bring func(ctx context.Context, ns string, i issue, want bool) error
	wake  chan struct{} // holds one token when there is something new to spread

	mu          sync.Mutex
	spreading   bool // false: nothing is known to be right, and nothing is written
	issue       issue
	edition     int // of the issue: grows with every change
	byNamespace map[string]copied
}

// copied is how the last try went in one namespace.
type copied struct {
	want     bool // whether it needed a copy
	edition  int
	due      time.Time // when to look again; zero: never, as where none is needed nobody but us makes one
	failures int       // in a row
	told     string    // the failure last logged
}

// order is to bring a namespace its copy, or to remove it.
type order struct {
	namespace string
	want      bool
}

func newCopies(cfg BundleConfig, bring func(ctx context.Context, ns string, i issue, want bool) error) *copies {
	return &copies{cfg: cfg, bring: bring, wake: make(chan struct{}, 1), byNamespace: map[string]copied{}}
}

// spread has an issue brought everywhere.
func (c *copies) spread(i issue) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.spreading && i.same(c.issue) {
		return
	}
	if !i.term.Equal(c.issue.term) {
		clear(c.byNamespace) // another may have written since
	}
	c.spreading, c.issue, c.edition = true, i, c.edition+1
	select {
	case c.wake <- struct{}{}:
	default:
	}
}

// stop ends that: another replica writes, and what this one knew of the namespaces is true no longer.
func (c *copies) stop() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.spreading = false
	clear(c.byNamespace)
}

// run brings copies until ctx ends.
func (c *copies) run(ctx context.Context) error {
	for {
		wait := c.pass(ctx)
		select {
		case <-ctx.Done():
			return nil
		case <-c.wake:
		case <-time.After(wait):
		}
	}
}

// pass carries out what is due, and returns how long there is nothing more. It ends early when there is a newer edition,
// and when it took so long that other namespaces may need a copy by now.
func (c *copies) pass(ctx context.Context) time.Duration {
	i, edition, orders := c.orders()
	end := c.cfg.Now().Add(copiesInterval)
	for _, o := range orders {
		if ctx.Err() != nil || !c.current(edition) || c.cfg.Now().After(end) {
			return 0
		}
		err := c.bring(ctx, o.namespace, i, o.want)
		switch {
		case errors.Is(err, ErrNotLeading):
			c.stop()
			return copiesInterval
		case unreachable(err):
			return copyRetry // which says nothing about the namespace
		case ctx.Err() == nil:
			c.note(o, edition, err)
		}
	}
	return c.pause()
}

// unreachable reports whether the API server can't be spoken to, as against one that waits for a webhook.
func unreachable(err error) bool {
	var transport *url.Error
	return errors.As(err, &transport) && !errors.Is(err, context.DeadlineExceeded)
}

func (c *copies) current(edition int) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.spreading && edition == c.edition
}

// orders are what is due, in the order to do it: namespaces where nothing failed come first, of them those that need a
// copy; of the others whoever has been due longest.
func (c *copies) orders() (i issue, edition int, orders []order) {
	needed := c.needed()
	c.mu.Lock()
	defer c.mu.Unlock()
	if !c.spreading || needed == nil {
		return issue{}, 0, nil
	}
	maps.DeleteFunc(c.byNamespace, func(ns string, _ copied) bool { _, exists := needed[ns]; return !exists })
	now := c.cfg.Now()
	for ns, want := range needed {
		s, known := c.byNamespace[ns]
		if !known || s.want != want || want && s.edition != c.edition || !s.due.IsZero() && !now.Before(s.due) {
			orders = append(orders, order{ns, want})
		}
	}
	slices.SortFunc(orders, func(a, b order) int {
		x, y := c.byNamespace[a.namespace], c.byNamespace[b.namespace]
		byDue := 0
		if x.failures > 0 && y.failures > 0 {
			byDue = x.due.Compare(y.due)
		}
		return cmp.Or(compare(x.failures > 0, y.failures > 0), byDue, compare(b.want, a.want), cmp.Compare(a.namespace, b.namespace))
	})
	return c.issue, c.edition, orders
}

// compare sorts false before true.
func compare(a, b bool) int {
	switch {
	case a == b:
		return 0
	case b:
		return -1
	}
	return 1
}

// needed are all namespaces but control's, with whether they need a copy; nil while that can't be told.
func (c *copies) needed() map[string]bool {
	snap := c.cfg.Snapshot()
	if snap == nil {
		return nil
	}
	needed := map[string]bool{}
	for _, ns := range c.cfg.Namespaces() {
		needed[ns] = false
	}
	snap.Workloads(func(w *mesh.Workload) bool {
		if _, exists := needed[w.Namespace]; exists && w.PodUID != "" && w.Capture != mesh.Outside {
			needed[w.Namespace] = true
		}
		return true
	})
	delete(needed, c.cfg.Namespace)
	return needed
}

// note remembers how it went, and logs a failure once.
func (c *copies) note(o order, edition int, err error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if !c.spreading || edition != c.edition {
		return // it is to be done again
	}
	last, next, now := c.byNamespace[o.namespace], copied{want: o.want, edition: edition}, c.cfg.Now()
	switch {
	case err != nil:
		next.failures, next.told = last.failures+1, err.Error()
		next.due = now.Add(retry.Delay(last.failures, copyRetry, copyPatience))
		if next.told != last.told {
			c.cfg.Log.Warn("a namespace's copy of the roots is not as it should be; trying again", "namespace", o.namespace, "configmap", BundleName, "err", err)
		}
	case o.want:
		next.due = now.Add(trusted)
	}
	if err == nil && last.failures > 0 {
		c.cfg.Log.Info("a namespace's copy of the roots is in order again", "namespace", o.namespace)
	}
	c.byNamespace[o.namespace] = next
}

// pause is how long nothing is due that is known of now.
func (c *copies) pause() time.Duration {
	c.mu.Lock()
	defer c.mu.Unlock()
	now, wait := c.cfg.Now(), copiesInterval
	for _, s := range c.byNamespace {
		if !s.due.IsZero() {
			wait = min(wait, s.due.Sub(now))
		}
	}
	return max(wait, 0)
}

// failing is in how many namespaces it failed last.
func (c *copies) failing() (n int) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, s := range c.byNamespace {
		if s.failures > 0 {
			n++
		}
	}
	return n
}

var failingDesc = prometheus.NewDesc("warren_control_roots_failing",
	"Namespaces other than control's own whose ConfigMap of the roots can't be brought up to date; the log says why.", nil, nil)

// Describe implements prometheus.Collector.
func (b *Bundle) Describe(ch chan<- *prometheus.Desc) { ch <- failingDesc }

// Collect implements prometheus.Collector.
func (b *Bundle) Collect(ch chan<- prometheus.Metric) {
	ch <- prometheus.MustNewConstMetric(failingDesc, prometheus.GaugeValue, float64(b.copies.failing()))
}
