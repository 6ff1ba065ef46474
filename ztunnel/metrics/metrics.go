// SPDX-License-Identifier: Apache-2.0

package metrics

import (
	"cmp"
	"runtime/debug"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/warren-mesh/warren/mesh/reason"
)

// Metrics is a Prometheus collector. Safe for concurrent use.
type Metrics struct {
	connections *table

	open    [2]atomic.Int64 // by reporter
	reasons [2][reason.Max]atomic.Uint64
	dryRun  atomic.Uint64
	audit   atomic.Uint64
	started atomic.Uint64 // pods
	stopped atomic.Uint64
	dropped func() uint64
	usage   atomic.Pointer[use]
}

// Config of the metrics; every field may be left out.
type Config struct {
	// LogDropped tells how many lines the access log dropped.
	LogDropped func() uint64
	// Registerer takes the collector; nil registers nothing.
	Registerer prometheus.Registerer
	// MaxLabelSets of the connection metrics; default MaxLabelSets.
	MaxLabelSets int
	// Now is the clock; nil means time.Now.
	Now func() time.Time
}

// New returns the collector, registered.
func New(c Config) (*Metrics, error) {
	if c.Now == nil {
		c.Now = time.Now
	}
	m := &Metrics{connections: newTable(cmp.Or(c.MaxLabelSets, MaxLabelSets), c.Now), dropped: c.LogDropped}
	if m.dropped == nil {
		m.dropped = func() uint64 { return 0 }
	}
	if c.Registerer != nil {
		if err := c.Registerer.Register(m); err != nil {
			return nil, err
		}
	}
	return m, nil
}

// Series returns the counters of l: one look-up a connection. Where l would be one label set too many they are those
// of Overflow.
func (m *Metrics) Series(l Labels) *Series { return m.connections.get(l) }

// DropLabels leaves labels out of the connection metrics from now on, by name; what can't be told apart without them
// is counted together.
func (m *Metrics) DropLabels(names []string) { m.connections.drop(names) }

// use is what tells of the pods.
type use struct {
	pods   func() []PodUse
	limits Limits
}

// Usage has pods tell of every pod whenever the metrics are about to be read; it brings all counters up to date
// first. One at most.
func (m *Metrics) Usage(pods func() []PodUse, l Limits) { m.usage.Store(&use{pods, l}) }

// Opened counts an accepted socket, until Ended.
func (m *Metrics) Opened(r Reporter) { m.open[r.index()].Add(1) }

// Ended counts the end of a connection under its final reason.
func (m *Metrics) Ended(r Reporter, why reason.Reason) {
	m.open[r.index()].Add(-1)
	m.reasons[r.index()][why].Add(1)
}

// Matched counts the policies that one connection matched and that were not enforced on it.
func (m *Metrics) Matched(dryRun, audit int) {
	m.dryRun.Add(uint64(dryRun))
	m.audit.Add(uint64(audit))
}

// PodStarted counts a pod that is served from now on.
func (m *Metrics) PodStarted() { m.started.Add(1) }

// PodStopped counts a pod that is not served any more.
func (m *Metrics) PodStopped() { m.stopped.Add(1) }

// Reason is how many connections ended with this reason; for tests and the admin page.
func (m *Metrics) Reason(r Reporter, why reason.Reason) uint64 {
	return m.reasons[r.index()][why].Load()
}

func (r Reporter) index() int {
	if r == Source {
		return 0
	}
	return 1
}

var (
	socketsDesc = desc("istio_tcp_sockets_open", "Accepted application connections that are open.", "reporter")
	reasonsDesc = desc("warren_connections_total", "Finished connections by reason.", "reporter", "reason")
	matchedDesc = desc("warren_policy_matches_total", "Policies that inbound connections matched and that are not enforced.", "kind")
	podsDesc    = desc("warren_ztunnel_pods", "Pods served.")
	droppedDesc = desc("warren_access_log_dropped_total", "Access log lines dropped because the sink was slow.")
	buildDesc   = desc("istio_build", "Build information; always 1.", "component", "tag")
)

func desc(name, help string, labels ...string) *prometheus.Desc {
	return prometheus.NewDesc(name, help, labels, nil)
}

// Describe implements prometheus.Collector: it describes nothing, because labels are dropped at run time.
func (m *Metrics) Describe(chan<- *prometheus.Desc) {}

// Collect implements prometheus.Collector.
func (m *Metrics) Collect(ch chan<- prometheus.Metric) {
	counter := func(d *prometheus.Desc, v uint64, labels ...string) {
		ch <- prometheus.MustNewConstMetric(d, prometheus.CounterValue, float64(v), labels...)
	}
	gauge := func(d *prometheus.Desc, v int64, labels ...string) {
		ch <- prometheus.MustNewConstMetric(d, prometheus.GaugeValue, float64(v), labels...)
	}
	if u := m.usage.Load(); u != nil {
		pods := u.pods()
		gauge(podsDesc, int64(len(pods)))
		serving := int64(0)
		for _, p := range pods {
			if p.Serving {
				serving++
			}
		}
		gauge(activeDesc, serving)
		gauge(pendingDesc, int64(len(pods))-serving)
		collectPods(ch, pods)
		gauge(limitDesc, int64(u.limits.Connections), "connections")
		gauge(limitDesc, int64(u.limits.Handshakes), "handshakes")
		gauge(limitDesc, u.limits.Buffered, "buffered_bytes")
	}
	m.connections.collect(ch)
	for _, r := range []Reporter{Source, Destination} {
		gauge(socketsDesc, m.open[r.index()].Load(), string(r))
		for why := range reason.Reason(reason.Max) {
			if n := m.reasons[r.index()][why].Load(); n > 0 {
				counter(reasonsDesc, n, string(r), why.String())
			}
		}
	}
	counter(matchedDesc, m.dryRun.Load(), "dry_run")
	counter(matchedDesc, m.audit.Load(), "audit")
	counter(startedDesc, m.started.Load())
	counter(stoppedDesc, m.stopped.Load())
	counter(droppedDesc, m.dropped())
	gauge(buildDesc, 1, "ztunnel", version())
}

func version() string {
	if bi, ok := debug.ReadBuildInfo(); ok && bi.Main.Version != "" {
		return bi.Main.Version
	}
	return "unknown"
}

var _ prometheus.Collector = (*Metrics)(nil)
