// SPDX-License-Identifier: Apache-2.0

package tracing

import "github.com/prometheus/client_golang/prometheus"

// counts tells what became of spans.
type counts struct{ exported, lost, failures *prometheus.CounterVec }

func newCounts(reg prometheus.Registerer) *counts {
	c := &counts{
		exported: prometheus.NewCounterVec(prometheus.CounterOpts{Name: "warren_spans_exported_total", Help: "Spans that a collector took."}, []string{"exporter"}),
		lost: prometheus.NewCounterVec(prometheus.CounterOpts{Name: "warren_spans_dropped_total",
			Help: "Spans dropped: the queue or a pod's share of it was full, the collector refused them, or it could not be reached."}, []string{"exporter", "cause"}),
		failures: prometheus.NewCounterVec(prometheus.CounterOpts{Name: "warren_spans_export_failures_total", Help: "Attempts to deliver spans that failed."}, []string{"exporter"}),
	}
	if reg != nil {
		reg.MustRegister(c.exported, c.lost, c.failures)
	}
	return c
}

func (c *counts) sent(exporter string, n int) { c.exported.WithLabelValues(exporter).Add(float64(n)) }
func (c *counts) failed(exporter string)      { c.failures.WithLabelValues(exporter).Inc() }
func (c *counts) dropped(exporter, cause string, n int) {
	if n > 0 {
		c.lost.WithLabelValues(exporter, cause).Add(float64(n))
	}
}
