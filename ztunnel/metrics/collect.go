// SPDX-License-Identifier: Apache-2.0

package metrics

import (
	"github.com/prometheus/client_golang/prometheus"
	dto "github.com/prometheus/client_model/go"
	"google.golang.org/protobuf/proto"
)

// Labels of these differ with what is dropped, so their descriptions name none.
var (
	openedDesc   = desc("istio_tcp_connections_opened_total", "Connections opened.")
	closedDesc   = desc("istio_tcp_connections_closed_total", "Connections closed.")
	failedDesc   = desc("istio_tcp_connections_failed_total", "Connections refused or failed before they were established.")
	sentDesc     = desc("istio_tcp_sent_bytes_total", "Bytes sent in response.")
	receivedDesc = desc("istio_tcp_received_bytes_total", "Bytes received in request.")

	labelSetsDesc    = desc("warren_metrics_label_sets", "Label sets of the connection metrics, each with five series.")
	labelSetsMaxDesc = desc("warren_metrics_label_sets_max", "How many label sets of the connection metrics there may be.")
	overflowDesc     = desc("warren_metrics_overflow_total", "Connections counted with labels of the value overflow, for want of room for another label set.")
)

// sample is one value of a label set. The five of a set share its labels: to make them is most of the work.
type sample struct {
	desc   *prometheus.Desc
	labels []*dto.LabelPair
	value  uint64
}

// Desc implements prometheus.Metric.
func (s sample) Desc() *prometheus.Desc { return s.desc }

// Write implements prometheus.Metric.
func (s sample) Write(out *dto.Metric) error {
	out.Label = s.labels
	out.Counter = &dto.Counter{Value: proto.Float64(float64(s.value))}
	return nil
}

func (t *table) collect(ch chan<- prometheus.Metric) {
	series, shown := t.all()
	for l, s := range series {
		labels := shown.pairs(&l)
		ch <- sample{openedDesc, labels, s.Opened.n.Load()}
		ch <- sample{closedDesc, labels, s.Closed.n.Load()}
		ch <- sample{failedDesc, labels, s.Failed.n.Load()}
		ch <- sample{sentDesc, labels, s.Sent.n.Load()}
		ch <- sample{receivedDesc, labels, s.Received.n.Load()}
	}
	ch <- prometheus.MustNewConstMetric(labelSetsDesc, prometheus.GaugeValue, float64(len(series)))
	ch <- prometheus.MustNewConstMetric(labelSetsMaxDesc, prometheus.GaugeValue, float64(t.max))
	ch <- prometheus.MustNewConstMetric(overflowDesc, prometheus.CounterValue, float64(t.overflowed.Load()))
}

// pairs are the labels that are shown, by name.
func (c *columns) pairs(l *Labels) []*dto.LabelPair {
	values := l.values()
	room := make([]dto.LabelPair, len(c.kept))
	out := make([]*dto.LabelPair, len(c.kept))
	for i, k := range c.kept {
		room[i].Name, room[i].Value = &labelNames[k], &values[k]
		out[i] = &room[i]
	}
	return out
}
