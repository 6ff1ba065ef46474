// SPDX-License-Identifier: Apache-2.0

package metrics

import (
	"math"
	"testing"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
)

// TestProcessTellsWhatPrometheusDoes compares the collector with Prometheus' own.
func TestProcessTellsWhatPrometheusDoes(t *testing.T) {
	p, err := OpenProcess("/proc")
	if err != nil {
		t.Fatal(err)
	}
	ours, theirs := gathered(t, p), gathered(t, collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}))
	for name, slack := range map[string]float64{
		"process_cpu_seconds_total": 1, "process_open_fds": 8, "process_max_fds": 0, "process_start_time_seconds": 0.02,
		"process_virtual_memory_bytes": 64 << 20, "process_resident_memory_bytes": 64 << 20,
	} {
		got, have := ours[name]
		want, exists := theirs[name]
		if !have && name == "process_open_fds" {
			t.Logf("this kernel does not tell %s", name)
			continue
		}
		if !have || !exists || math.Abs(got-want) > slack {
			t.Errorf("%s: got %v (%v), Prometheus' has %v (%v)", name, got, have, want, exists)
		}
		delete(ours, name)
	}
	if len(ours) > 0 {
		t.Errorf("beyond Prometheus': %v", ours)
	}
}

func gathered(t *testing.T, c prometheus.Collector) map[string]float64 {
	t.Helper()
	r := prometheus.NewPedanticRegistry()
	r.MustRegister(c)
	families, err := r.Gather()
	if err != nil {
		t.Fatal(err)
	}
	out := map[string]float64{}
	for _, f := range families {
		m := f.GetMetric()[0]
		out[f.GetName()] = m.GetCounter().GetValue() + m.GetGauge().GetValue()
	}
	return out
}

func TestParseStat(t *testing.T) {
	const line = "7 (a ) R 1) S 1 7 7 0 -1 4194560 1 0 0 0 250 50 0 0 20 0 9 0 12345 4096000 100 18446744073709551615 1 1\n"
	u, err := parseStat(line)
	if err != nil || u.cpu.Seconds() != 3 || u.started.Seconds() != 123.45 || u.virtual != 4096000 || u.resident <= 0 {
		t.Errorf("got %+v, %v", u, err)
	}
	for _, bad := range []string{"", "7 (x) S 1 2 3", "7 (x) S 1 7 7 0 -1 4194560 1 0 0 0 x 50 0 0 20 0 9 0 12345 4096000 100"} {
		if u, err := parseStat(bad); err == nil {
			t.Errorf("%q: got %+v", bad, u)
		}
	}
}
