// SPDX-License-Identifier: Apache-2.0

package metrics

import (
	"fmt"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	dto "github.com/prometheus/client_model/go"

	"github.com/warren-mesh/warren/mesh"
	"github.com/warren-mesh/warren/mesh/reason"
)

// clock is a time that tests move.
type clock struct{ at time.Time }

func (c *clock) now() time.Time { return c.at }

func newMetrics(t testing.TB, limit int) (*Metrics, *prometheus.Registry, *clock) {
	t.Helper()
	c, reg := &clock{time.Unix(1e9, 0)}, prometheus.NewRegistry()
	m, err := New(Config{Registerer: reg, MaxLabelSets: limit, Now: c.now})
	if err != nil {
		t.Fatal(err)
	}
	return m, reg, c
}

// labelsOf is a connection of client to the nth service.
func labelsOf(client string, n int) Labels {
	return Labels{
		Reporter: Source, Source: Peer{Workload: client, Namespace: "shop"}, Destination: Peer{Workload: fmt.Sprint("web-", n), Namespace: "shop"},
		ServiceHost: fmt.Sprint("web-", n, ".shop"), Service: mesh.Name{Namespace: "shop", Name: fmt.Sprint("web-", n)}, Mutual: true,
	}
}

// gather returns the values of a metric by their labels, written in order.
func gather(t testing.TB, reg *prometheus.Registry, name string) map[string]float64 {
	t.Helper()
	families, err := reg.Gather()
	if err != nil {
		t.Fatal(err)
	}
	out := map[string]float64{}
	for _, f := range families {
		if f.GetName() != name {
			continue
		}
		for _, m := range f.GetMetric() {
			out[written(m)] = m.GetCounter().GetValue() + m.GetGauge().GetValue()
		}
	}
	return out
}

func written(m *dto.Metric) (s string) {
	for _, l := range m.GetLabel() {
		s += l.GetName() + "=" + l.GetValue() + " "
	}
	return s
}

func TestColumnsCoverEveryLabel(t *testing.T) {
	var names []string
	for _, f := range fields {
		names = append(names, f.names...)
	}
	names = append(names, "request_protocol") // always tcp
	slices.Sort(names)
	if want := slices.Sorted(slices.Values(LabelNames())); !slices.Equal(names, want) {
		t.Errorf("columns of %v, want %v", names, want)
	}
}

// TestEachLabelCanBeDropped: a label that is dropped is not shown, tells nothing apart any more, and all others stay.
func TestEachLabelCanBeDropped(t *testing.T) {
	full := Labels{Reporter: Source, ServiceHost: "h", Service: mesh.Name{Namespace: "n", Name: "s"}, Mutual: true, Reason: reason.StrictMTLS,
		Source: Peer{"a", "b", "c", "d", "e", "f", "g", "h"}, Destination: Peer{"i", "j", "k", "l", "m", "n", "o", "p"}}
	for _, f := range fields {
		m, reg, _ := newMetrics(t, 10)
		m.DropLabels(append([]string{"no_such_label"}, f.names...))
		other := full
		f.clear(&other)
		if other == full {
			t.Errorf("%v: cleared nothing", f.names)
		}
		m.Series(full).Opened.Add(1)
		m.Series(other).Opened.Add(1)
		got := gather(t, reg, "istio_tcp_connections_opened_total")
		if len(got) != 1 {
			t.Errorf("%v: %d series", f.names, len(got))
		}
		for labels, n := range got {
			if n != 2 {
				t.Errorf("%v: counted %v", f.names, n)
			}
			for _, name := range LabelNames() {
				if shown, dropped := contains(labels, name), slices.Contains(f.names, name); shown == dropped {
					t.Errorf("%v: label %s shown: %v", f.names, name, shown)
				}
			}
		}
	}
}

func contains(labels, name string) bool {
	m := " " + labels
	for i := 0; i+len(name)+2 <= len(m); i++ {
		if m[i:i+len(name)+2] == " "+name+"=" {
			return true
		}
	}
	return false
}

// TestDropWhileConnectionsLive: nothing is lost or counted twice when label sets become one under live connections.
func TestDropWhileConnectionsLive(t *testing.T) {
	m, reg, _ := newMetrics(t, 100)
	drop := []string{"destination_workload", "destination_service", "destination_service_name"}
	var wg sync.WaitGroup
	const clients, rounds = 8, 2000
	for i := range clients {
		s := m.Series(labelsOf("client", i))
		s.Opened.Add(1)
		wg.Go(func() {
			for range rounds {
				s.Sent.Add(1)
			}
			s.Closed.Add(1)
		})
	}
	wg.Go(func() {
		for i := range 20 {
			m.DropLabels(drop[:1+i%3])
		}
		m.DropLabels(drop)
	})
	wg.Wait()
	for name, want := range map[string]float64{"istio_tcp_sent_bytes_total": clients * rounds, "istio_tcp_connections_closed_total": clients, "istio_tcp_connections_opened_total": clients} {
		got := gather(t, reg, name)
		if len(got) != 1 {
			t.Errorf("%s: %d series, want 1", name, len(got))
		}
		for labels, n := range got {
			if n != want {
				t.Errorf("%s: %v, want %v (%s)", name, n, want, labels)
			}
		}
	}
	if n := m.Series(labelsOf("client", 3)).Opened.Load(); n != clients {
		t.Errorf("a handle reads %d, want %d", n, clients)
	}
}

// TestCardinalityIsBounded: beyond the bound connections are counted all the same, as overflow, and a metric says so.
func TestCardinalityIsBounded(t *testing.T) {
	m, reg, _ := newMetrics(t, 8)
	const each = 50
	for _, client := range []string{"a", "b", "c", "d", "e"} {
		for n := range each {
			l := labelsOf(client, n)
			if n%2 == 1 {
				l.Reason = reason.PolicyDeny
			}
			m.Series(l).Failed.Add(1)
		}
	}
	var sum, flagged float64
	got := gather(t, reg, "istio_tcp_connections_failed_total")
	for labels, n := range got {
		if sum += n; contains(labels, "response_flags") && containsValue(labels, "response_flags=DENY") {
			flagged += n
		}
	}
	if want := 8 + 2; len(got) != want {
		t.Errorf("%d label sets, want %d", len(got), want)
	}
	if sum != 5*each || flagged != 5*each/2 {
		t.Errorf("%v connections, %v with DENY; want %v and %v", sum, flagged, 5*each, 5*each/2)
	}
	if n := gather(t, reg, "warren_metrics_overflow_total")[""]; n != 5*each-8 {
		t.Errorf("overflow %v, want %v", n, 5*each-8)
	}
	if n := gather(t, reg, "warren_metrics_label_sets")[""]; n != 10 {
		t.Errorf("label sets %v, want 10", n)
	}
}

func containsValue(labels, pair string) bool { return slices.Contains(splitPairs(labels), pair) }

func splitPairs(labels string) (out []string) {
	for start, i := 0, 0; i < len(labels); i++ {
		if labels[i] == ' ' {
			out = append(out, labels[start:i])
			start = i + 1
		}
	}
	return out
}

// TestOneWorkloadCannotUseUpTheLabelSets: whoever talks to everybody leaves room for the others of its node.
func TestOneWorkloadCannotUseUpTheLabelSets(t *testing.T) {
	m, _, _ := newMetrics(t, 40)
	for n := range 1000 {
		m.Series(labelsOf("noisy", n)).Opened.Add(1)
	}
	quiet := m.Series(labelsOf("quiet", 1))
	quiet.Opened.Add(1)
	if n := quiet.Opened.Load(); n != 1 {
		t.Errorf("the quiet workload shares its series: %d connections, want 1", n)
	}
	if n := m.connections.owned[owner{Source, "shop", "noisy"}]; n != 10 {
		t.Errorf("the noisy workload has %d label sets, want 10", n)
	}
}

// TestStaleSeriesGo: a label set without a connection is told for an hour; one with a live connection stays.
func TestStaleSeriesGo(t *testing.T) {
	m, reg, c := newMetrics(t, 100)
	sets := func() int { return len(gather(t, reg, "istio_tcp_connections_opened_total")) }
	live, over := m.Series(labelsOf("client", 1)), m.Series(labelsOf("client", 2))
	live.Opened.Add(1)
	over.Opened.Add(1)
	over.Closed.Add(1)
	for range 2 {
		if n := sets(); n != 2 {
			t.Fatalf("%d label sets, want 2", n)
		}
		c.at = c.at.Add(staleAfter - time.Second)
	}
	c.at = c.at.Add(2 * time.Second)
	if n := sets(); n != 1 {
		t.Fatalf("%d label sets after an hour, want the live one", n)
	}
	live.Closed.Add(1)
	sets()
	c.at = c.at.Add(staleAfter)
	if n := sets(); n != 0 || len(m.connections.owned) != 0 {
		t.Fatalf("%d label sets after the last connection's hour, %v still charged; want none", n, m.connections.owned)
	}
	again := m.Series(labelsOf("client", 2))
	again.Opened.Add(1)
	if n := again.Opened.Load(); n != 1 {
		t.Errorf("counts from %d on", n-1)
	}
}

// TestRoomComesBack: a full table takes new label sets once old ones are stale, without anybody reading it.
func TestRoomComesBack(t *testing.T) {
	m, _, c := newMetrics(t, 4)
	for _, client := range []string{"a", "b", "c", "d"} {
		m.Series(labelsOf(client, 1)).Failed.Add(1)
	}
	for range 2 { // once it finds them touched, once stale
		c.at = c.at.Add(staleAfter)
		m.Series(labelsOf("e", 1)).Failed.Add(1)
	}
	if n := m.connections.owned[owner{Source, "shop", "e"}]; n != 1 {
		t.Errorf("%v: no room for another label set", m.connections.owned)
	}
}

func BenchmarkSeries(b *testing.B) {
	m, _, _ := newMetrics(b, 0)
	l := labelsOf("client", 1)
	b.ReportAllocs()
	for b.Loop() {
		s := m.Series(l)
		s.Opened.Add(1)
		s.Closed.Add(1)
	}
}

// BenchmarkCollect is one scrape of as many label sets as there may be.
func BenchmarkCollect(b *testing.B) {
	m, reg, _ := newMetrics(b, MaxLabelSets)
	for n := range MaxLabelSets {
		m.Series(labelsOf(fmt.Sprint("client-", n%8), n)).Opened.Add(1)
	}
	b.ReportAllocs()
	for b.Loop() {
		if _, err := reg.Gather(); err != nil {
			b.Fatal(err)
		}
	}
}
