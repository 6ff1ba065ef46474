// SPDX-License-Identifier: Apache-2.0

package agent

import (
	"context"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/warren-mesh/warren/mesh/broker"
	"github.com/warren-mesh/warren/mesh/reason"
)

// collector reads the agent's figures at scrape time: the pods by state, and through the broker what the
// kernel programs counted.
type collector struct {
	pods      func() map[string]int // by state word
	unwritten func() (map[string]string, uint64)
	stats     func(context.Context) (broker.Stats, error)

	podsDesc, unpublished, failed, reasons, repairs, drifts, failures, up, ztunnels *prometheus.Desc
}

var _ prometheus.Collector = (*collector)(nil)

func newCollector(pods func() map[string]int, unwritten func() (map[string]string, uint64), stats func(context.Context) (broker.Stats, error)) *collector {
	d := func(name, help string, labels ...string) *prometheus.Desc {
		return prometheus.NewDesc(name, help, labels, nil)
	}
	return &collector{
		pods: pods, unwritten: unwritten, stats: stats,
		podsDesc: d("warren_agent_pods", "Pods of this node by capture state.", "state"),

		unpublished: d("warren_agent_unpublished_pods", "Pods whose capture state could not be published yet; /debug/pods says why."),
		failed:      d("warren_agent_publish_failures_total", "Attempts to publish a pod's capture state that failed."),

		reasons:  d("warren_kernel_connections_total", "Connections and packets the kernel programs decided on, by reason.", "reason"),
		repairs:  d("warren_kernel_repairs_total", "Attachments and listeners that were not as they should be and were repaired."),
		drifts:   d("warren_kernel_drifts", "Attachments that are not as they should be now."),
		failures: d("warren_broker_failures", "Things the broker could not do, for the whole node, and tries again."),
		up:       d("warren_broker_up", "1 while the broker answers."),
		ztunnels: d("warren_broker_ztunnels", "Ztunnels the broker is connected to."),
	}
}

func (c *collector) Describe(ch chan<- *prometheus.Desc) {
	for _, d := range []*prometheus.Desc{c.podsDesc, c.unpublished, c.failed, c.reasons, c.repairs, c.drifts, c.failures, c.up, c.ztunnels} {
		ch <- d
	}
}

func (c *collector) Collect(ch chan<- prometheus.Metric) {
	gauge := func(d *prometheus.Desc, v float64, labels ...string) {
		ch <- prometheus.MustNewConstMetric(d, prometheus.GaugeValue, v, labels...)
	}
	for state, n := range c.pods() {
		gauge(c.podsDesc, float64(n), state)
	}
	why, failed := c.unwritten()
	gauge(c.unpublished, float64(len(why)))
	ch <- prometheus.MustNewConstMetric(c.failed, prometheus.CounterValue, float64(failed))
	ctx, cancel := context.WithTimeout(context.Background(), time.Second)
	defer cancel()
	st, err := c.stats(ctx)
	if err != nil {
		gauge(c.up, 0)
		return
	}
	gauge(c.up, 1)
	gauge(c.drifts, float64(len(st.Drifts)))
	gauge(c.failures, float64(len(st.Failures)))
	gauge(c.ztunnels, float64(st.Ztunnels))
	ch <- prometheus.MustNewConstMetric(c.repairs, prometheus.CounterValue, float64(st.Repairs))
	for word, n := range st.Reasons {
		if _, known := reason.Parse(word); known {
			ch <- prometheus.MustNewConstMetric(c.reasons, prometheus.CounterValue, float64(n), word)
		}
	}
}
