// SPDX-License-Identifier: Apache-2.0

package metrics

import (
	"errors"
	"io"

	"github.com/prometheus/client_golang/prometheus"
)

// Discovery counts what workload discovery brings, under ambient's names. Safe for concurrent use.
type Discovery struct{ messages, terminations *prometheus.CounterVec }

// NewDiscovery returns the counters, registered.
func NewDiscovery(reg prometheus.Registerer) *Discovery {
	d := &Discovery{
		messages:     prometheus.NewCounterVec(prometheus.CounterOpts{Name: "istio_xds_message_total", Help: "Messages received, by type."}, []string{"url"}),
		terminations: prometheus.NewCounterVec(prometheus.CounterOpts{Name: "istio_xds_connection_terminations_total", Help: "Connections to workload discovery that ended."}, []string{"reason"}),
	}
	reg.MustRegister(d.messages, d.terminations)
	return d
}

// Heard counts a message.
func (d *Discovery) Heard(typeURL string) { d.messages.WithLabelValues(typeURL).Inc() }

// Lost counts a connection that ended: before the server said anything, in order, or otherwise.
func (d *Discovery) Lost(heard bool, err error) {
	reason := "Error"
	switch {
	case !heard:
		reason = "ConnectionError"
	case errors.Is(err, io.EOF):
		reason = "Complete"
	}
	d.terminations.WithLabelValues(reason).Inc()
}

// Ambient tells of pods by these.
var (
	activeDesc  = desc("workload_manager_active_proxy_count", "Pods served.")
	pendingDesc = desc("workload_manager_pending_proxy_count", "Pods announced by one of agent and broker and not by the other yet.")
	startedDesc = desc("workload_manager_proxies_started_total", "Pods served so far.")
	stoppedDesc = desc("workload_manager_proxies_stopped_total", "Of those, gone.")
)
