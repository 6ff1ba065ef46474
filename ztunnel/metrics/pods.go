// SPDX-License-Identifier: Apache-2.0

package metrics

import (
	"github.com/prometheus/client_golang/prometheus"

	"github.com/warren-mesh/warren/mesh"
)

// PodUse is what one pod takes of this ztunnel, and the limits it met.
type PodUse struct {
	Name mesh.Name
	// Serving: announced, and its listeners are here.
	Serving bool
	// Outbound and Inbound connections that are open.
	Outbound, Inbound int
	// Tunnels that peers hold to it, Handshakes with peers under way, Buffered bytes waiting for slow applications.
	Tunnels, Handshakes int
	Buffered            int64
	// OpenedOutbound and OpenedInbound connections so far, Sent and Received bytes of established ones, from the pod's side.
	OpenedOutbound, OpenedInbound uint64
	Sent, Received                uint64
	// Refused connections and tunnels, because the pod had its limit of them.
	Refused uint64
}

// Each pod of the node has these, while it is served: as many series as the node has pods.
var (
	podOpenDesc       = desc("warren_pod_connections", "Open connections of a pod.", "pod_namespace", "pod_name", "direction")
	podOpenedDesc     = desc("warren_pod_connections_total", "Connections of a pod since it is served.", "pod_namespace", "pod_name", "direction")
	podBytesDesc      = desc("warren_pod_bytes_total", "Bytes a pod sent and received since it is served.", "pod_namespace", "pod_name", "direction")
	podTunnelsDesc    = desc("warren_pod_tunnels", "HBONE connections peers hold to a pod.", "pod_namespace", "pod_name")
	podHandshakesDesc = desc("warren_pod_handshakes", "TLS handshakes with a pod's peers under way.", "pod_namespace", "pod_name")
	podBufferedDesc   = desc("warren_pod_buffered_bytes", "Bytes that wait in memory for a pod's slow applications and peers.", "pod_namespace", "pod_name")
	podRefusedDesc    = desc("warren_pod_limit_refusals_total", "Connections and tunnels refused because a pod had its limit of them.", "pod_namespace", "pod_name")
	limitDesc         = desc("warren_pod_limit", "What one pod may have at most.", "limit")
)

// Limits are what one pod may have at most.
type Limits struct {
	Connections, Handshakes int
	Buffered                int64 // bytes
}

// collectPods tells of pods by their names: of two that share one, a pod on its way out and the one in its place, the
// sum.
func collectPods(ch chan<- prometheus.Metric, pods []PodUse) {
	byName := map[mesh.Name]PodUse{}
	for _, p := range pods {
		if p.Name.IsZero() { // announced by the broker alone: it is not served yet
			continue
		}
		byName[p.Name] = byName[p.Name].plus(p)
	}
	for name, p := range byName {
		counter := func(d *prometheus.Desc, v uint64, labels ...string) {
			ch <- prometheus.MustNewConstMetric(d, prometheus.CounterValue, float64(v), append([]string{name.Namespace, name.Name}, labels...)...)
		}
		gauge := func(d *prometheus.Desc, v int64, labels ...string) {
			ch <- prometheus.MustNewConstMetric(d, prometheus.GaugeValue, float64(v), append([]string{name.Namespace, name.Name}, labels...)...)
		}
		gauge(podOpenDesc, int64(p.Outbound), "outbound")
		gauge(podOpenDesc, int64(p.Inbound), "inbound")
		counter(podOpenedDesc, p.OpenedOutbound, "outbound")
		counter(podOpenedDesc, p.OpenedInbound, "inbound")
		counter(podBytesDesc, p.Sent, "sent")
		counter(podBytesDesc, p.Received, "received")
		gauge(podTunnelsDesc, int64(p.Tunnels))
		gauge(podHandshakesDesc, int64(p.Handshakes))
		gauge(podBufferedDesc, p.Buffered)
		counter(podRefusedDesc, p.Refused)
	}
}

func (p PodUse) plus(o PodUse) PodUse {
	o.Outbound += p.Outbound
	o.Inbound += p.Inbound
	o.Tunnels += p.Tunnels
	o.Handshakes += p.Handshakes
	o.Buffered += p.Buffered
	o.OpenedOutbound += p.OpenedOutbound
	o.OpenedInbound += p.OpenedInbound
	o.Sent += p.Sent
	o.Received += p.Received
	o.Refused += p.Refused
	return o
}
