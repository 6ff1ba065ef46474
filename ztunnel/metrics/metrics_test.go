// SPDX-License-Identifier: Apache-2.0

package metrics

import (
	"errors"
	"fmt"
	"io"
	"maps"
	"strings"
	"testing"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"

	"github.com/warren-mesh/warren/mesh"
	"github.com/warren-mesh/warren/mesh/reason"
)

func TestCollect(t *testing.T) {
	reg := prometheus.NewRegistry()
	m, err := New(Config{Registerer: reg, LogDropped: func() uint64 { return 3 }})
	if err != nil {
		t.Fatal(err)
	}
	id := mesh.Identity{TrustDomain: "cluster.local", Namespace: "shop", ServiceAccount: "web"}
	l := Labels{Reporter: Source, Source: PeerOf(&mesh.Workload{Name: "client-1", WorkloadName: "client", Namespace: "shop"}, mesh.Identity{}),
		Destination: PeerOf(nil, id), ServiceHost: "web.shop.svc.cluster.local", Service: mesh.Name{Namespace: "shop", Name: "web"}, Mutual: true, Reason: reason.Tunnel}
	same := l
	same.Reason = reason.SameNode
	if m.Series(l) != m.Series(same) {
		t.Error("two reasons with one response flag make two series with equal labels")
	}
	m.Series(l).Opened.Add(2)
	denied := l
	denied.Reason = reason.StrictMTLS
	m.Series(denied).Failed.Add(1)
	m.Opened(Source)
	m.Opened(Source)
	m.Ended(Source, reason.Tunnel)
	m.Matched(1, 2)

	problems, err := testutil.GatherAndLint(reg)
	if err != nil || len(problems) > 0 {
		t.Errorf("lint: %v, %v", problems, err)
	}
	want := `
# HELP istio_tcp_sockets_open Accepted application connections that are open.
# TYPE istio_tcp_sockets_open gauge
istio_tcp_sockets_open{reporter="destination"} 0
istio_tcp_sockets_open{reporter="source"} 1
# HELP warren_access_log_dropped_total Access log lines dropped because the sink was slow.
# TYPE warren_access_log_dropped_total counter
warren_access_log_dropped_total 3
# HELP warren_connections_total Finished connections by reason.
# TYPE warren_connections_total counter
warren_connections_total{reason="TUNNEL",reporter="source"} 1
# HELP warren_policy_matches_total Policies that inbound connections matched and that are not enforced.
# TYPE warren_policy_matches_total counter
warren_policy_matches_total{kind="audit"} 2
warren_policy_matches_total{kind="dry_run"} 1
`
	if err := testutil.GatherAndCompare(reg, strings.NewReader(want), "istio_tcp_sockets_open", "warren_access_log_dropped_total", "warren_connections_total", "warren_policy_matches_total"); err != nil {
		t.Error(err)
	}
	if n, err := testutil.GatherAndCount(reg, "istio_tcp_connections_opened_total"); err != nil || n != 2 {
		t.Errorf("series: got %d, %v, want 2", n, err)
	}
}

func TestLabels(t *testing.T) {
	l := Labels{Reporter: Destination, Reason: reason.StrictMTLS}
	v := l.values()
	if len(v) != len(labelNames) {
		t.Fatalf("%d values for %d labels", len(v), len(labelNames))
	}
	got := map[string]string{}
	for i, n := range labelNames {
		got[n] = v[i]
	}
	for n, want := range map[string]string{"reporter": "destination", "source_principal": "unknown", "request_protocol": "tcp", "response_flags": "DENY", "connection_security_policy": "unknown"} {
		if got[n] != want {
			t.Errorf("%s: got %q, want %q", n, got[n], want)
		}
	}
}

// TestDiscovery has ambient's words for how a connection to workload discovery ended.
func TestDiscovery(t *testing.T) {
	reg := prometheus.NewRegistry()
	d := NewDiscovery(reg)
	d.Heard("type.googleapis.com/istio.workload.Address")
	d.Lost(false, io.EOF)
	d.Lost(true, fmt.Errorf("receive: %w", io.EOF))
	d.Lost(true, errors.New("reset"))
	for reason, want := range map[string]float64{"ConnectionError": 1, "Complete": 1, "Error": 1} {
		if n := testutil.ToFloat64(d.terminations.WithLabelValues(reason)); n != want {
			t.Errorf("%s: %v, want %v", reason, n, want)
		}
	}
	if n := testutil.ToFloat64(d.messages.WithLabelValues("type.googleapis.com/istio.workload.Address")); n != 1 {
		t.Errorf("%v messages", n)
	}
}

// TestPods: two pods of one name, one of them on its way out, are one series; a pod that only the broker named has none.
func TestPods(t *testing.T) {
	reg := prometheus.NewRegistry()
	m, err := New(Config{Registerer: reg})
	if err != nil {
		t.Fatal(err)
	}
	web := mesh.Name{Namespace: "shop", Name: "web-0"}
	m.Usage(func() []PodUse {
		return []PodUse{{Name: web, Serving: true, Inbound: 2, Sent: 10, Refused: 1}, {Name: web, Inbound: 1, Sent: 5}, {Inbound: 7}}
	}, Limits{Connections: 20})
	for name, want := range map[string]map[string]float64{
		"warren_pod_connections":               {"direction=inbound pod_name=web-0 pod_namespace=shop ": 3, "direction=outbound pod_name=web-0 pod_namespace=shop ": 0},
		"warren_pod_bytes_total":               {"direction=sent pod_name=web-0 pod_namespace=shop ": 15, "direction=received pod_name=web-0 pod_namespace=shop ": 0},
		"warren_pod_limit_refusals_total":      {"pod_name=web-0 pod_namespace=shop ": 1},
		"warren_pod_limit":                     {"limit=connections ": 20, "limit=handshakes ": 0, "limit=buffered_bytes ": 0},
		"workload_manager_active_proxy_count":  {"": 1},
		"workload_manager_pending_proxy_count": {"": 2},
	} {
		if got := gather(t, reg, name); !maps.Equal(got, want) {
			t.Errorf("%s: got %v, want %v", name, got, want)
		}
	}
}
