// SPDX-License-Identifier: Apache-2.0

package main

import (
	"slices"
	"time"
)

// scenario is one load, offered to every system in turn.
type scenario struct {
	name  string
	kind  string // of load: bytes, requests, paced, connections; idle and memory are not loads
	conns int    // connections, or clients that open one after the other
	size  int    // bytes of a request and of its answer
	rate  int    // requests a second over all connections; paced only
	near  bool   // client and server are on one node
}

const (
	kindIdle        = "idle"
	kindMemory      = "memory"
	kindBytes       = "bytes"
	kindRequests    = "requests"
	kindPaced       = "paced"
	kindConnections = "connections"
)

// scenarios in the order in which they run: memory first, while every process is fresh.
var scenarios = []scenario{
	{name: "idle", kind: kindIdle},
	{name: "memory", kind: kindMemory, size: 64},
	{name: "bytes-1", kind: kindBytes, conns: 1},
	{name: "bytes-4", kind: kindBytes, conns: 4},
	{name: "requests-1", kind: kindRequests, conns: 1, size: 64},
	{name: "requests-16", kind: kindRequests, conns: 16, size: 64},
	{name: "requests-64", kind: kindRequests, conns: 64, size: 64},
	{name: "paced", kind: kindPaced, conns: 32, size: 1024, rate: 1000},
	{name: "connections", kind: kindConnections, conns: 8, size: 64},
	{name: "samenode-memory", kind: kindMemory, size: 64, near: true},
	{name: "samenode-bytes-1", kind: kindBytes, conns: 1, near: true},
	{name: "samenode-bytes-4", kind: kindBytes, conns: 4, near: true},
	{name: "samenode-requests-1", kind: kindRequests, conns: 1, size: 64, near: true},
	{name: "samenode-requests-16", kind: kindRequests, conns: 16, size: 64, near: true},
	{name: "samenode-requests-64", kind: kindRequests, conns: 64, size: 64, near: true},
	{name: "samenode-paced", kind: kindPaced, conns: 32, size: 1024, rate: 1000, near: true},
	{name: "samenode-connections", kind: kindConnections, conns: 8, size: 64, near: true},
}

func scenarioNames() []string {
	var out []string
	for _, s := range scenarios {
		out = append(out, s.name)
	}
	return out
}

// once says that the scenario is measured a single time, not in rounds.
func (s scenario) once() bool { return s.kind == kindIdle || s.kind == kindMemory }

// figures turns one run into metrics. cpu is what the mesh's processes used, user and system; negative where there
// is no mesh.
func (s scenario) figures(r outcome, cpu time.Duration) map[string]float64 {
	out := map[string]float64{}
	per := func(metric string, n float64, unit time.Duration) {
		if cpu >= 0 {
			out[metric] = float64(cpu) / float64(unit) / n
		}
	}
	switch s.kind {
	case kindBytes:
		out["gbit_s"] = float64(r.Bytes) * 8 / 1e9 / r.Elapsed.Seconds()
		per("cpu_s_per_gb", float64(r.Bytes)/1e9, time.Second)
		return out
	case kindConnections:
		out["conn_s"] = float64(r.Operations) / r.Elapsed.Seconds()
		per("cpu_us_per_conn", float64(r.Operations), time.Microsecond)
	case kindRequests, kindPaced:
		out["req_s"] = float64(r.Operations) / r.Elapsed.Seconds()
		per("cpu_us_per_req", float64(r.Operations), time.Microsecond)
	}
	for i, q := range quantiles {
		out[q.metric] = float64(r.Quantiles[i]) / float64(time.Microsecond)
	}
	return out
}

// units of the metrics, in the order of the table.
var units = []struct{ metric, unit string }{
	{"cpu_s_per_gb", "s/GB"}, {"gbit_s", "Gbit/s"},
	{"cpu_us_per_req", "µs"}, {"req_s", "1/s"},
	{"cpu_us_per_conn", "µs"}, {"conn_s", "1/s"},
	{"p50_us", "µs"}, {"p90_us", "µs"}, {"p99_us", "µs"}, {"p999_us", "µs"},
	{"rss_mib", "MiB"}, {"kib_per_conn", "KiB"},
}

func unitIndex(metric string) int {
	return slices.IndexFunc(units, func(u struct{ metric, unit string }) bool { return u.metric == metric })
}

func scenarioIndex(name string) int {
	return slices.IndexFunc(scenarios, func(s scenario) bool { return s.name == name })
}
