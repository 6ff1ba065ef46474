// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"fmt"
	"strconv"
	"strings"
	"testing"
	"time"
)

// told is how long the mesh may take to write down what it did. The data path never waits for log and metrics.
const told = 10 * time.Second

// Evidence is what the mesh itself says of one node from a moment on: ztunnel's access log, its metrics, and the kernel's
// counters. Tests of refusals assert on it, and not on an error alone, which can have any cause. Other tests' connections
// are in it, too: lines are told apart by names of pods or addresses.
type Evidence struct {
	t       testing.TB
	mesh    *Mesh
	node    string
	moment  time.Time
	metrics string
	kernel  map[string]uint64
}

// Witness begins to look at a node.
func (m *Mesh) Witness(t testing.TB, node string) *Evidence {
	t.Helper()
	e := &Evidence{t: t, mesh: m, node: node, moment: time.Now()}
	e.metrics, e.kernel = e.ztunnel().Metrics(), e.counters()
	return e
}

// In is the same evidence in a subtest.
func (e *Evidence) In(t testing.TB) *Evidence {
	sub := *e
	sub.t = t
	return &sub
}

func (e *Evidence) ztunnel() *Part { return e.mesh.Ztunnel(e.t, e.node) }

// counters are the kernel's, by reason.
func (e *Evidence) counters() map[string]uint64 {
	e.t.Helper()
	var stats struct {
		Reasons map[string]uint64 `json:"reasons"`
	}
	Eventually(e.t, told, "node "+e.node+": the kernel's counters", func() string {
		if err := e.mesh.Agent(e.t, e.node).JSON("http://localhost:15000/debug/bpf", &stats); err != nil {
			return err.Error()
		}
		return ""
	})
	return stats.Reasons
}

// Lines are the access log's lines since the moment in which all the parts stand, such as "src.workload=x".
func (e *Evidence) Lines(parts ...string) []string {
	e.t.Helper()
	return accessLines(e.ztunnel().LogSince(e.moment), parts...)
}

func accessLines(log string, parts ...string) []string {
	var out []string
next:
	for line := range strings.Lines(log) {
		if !strings.Contains(line, " access ") {
			continue
		}
		for _, p := range parts {
			if !strings.Contains(line, p+" ") && !strings.Contains(line, p+"\n") {
				continue next
			}
		}
		out = append(out, line)
	}
	return out
}

// Line waits for such a line and returns the first.
func (e *Evidence) Line(parts ...string) string {
	e.t.Helper()
	var found []string
	Eventually(e.t, told, fmt.Sprintf("node %s: a line with %q in the access log", e.node, parts), func() string {
		if found = e.Lines(parts...); len(found) > 0 {
			return ""
		}
		// What comes nearest: lines with the first part.
		near := e.Lines(parts[:1]...)
		return fmt.Sprintf("none; with %s alone:\n%s", parts[0], strings.Join(near, ""))
	})
	return found[0]
}

// Ended waits until a connection ended with this reason, in the access log, with the parts, and in the metrics of the same
// end ("source" or "destination"). It returns the line.
func (e *Evidence) Ended(reporter, reason string, parts ...string) string {
	e.t.Helper()
	direction := map[string]string{"source": "outbound", "destination": "inbound"}[reporter]
	line := e.Line(append(parts, "direction="+direction, "reason="+reason)...)
	labels := []string{`reporter="` + reporter + `"`, `reason="` + reason + `"`}
	before := Metric(e.metrics, "warren_connections_total", labels...)
	Eventually(e.t, told, fmt.Sprintf("node %s: metric %v grows from %v", e.node, labels, before), func() string {
		if now := Metric(e.ztunnel().Metrics(), "warren_connections_total", labels...); now <= before {
			return fmt.Sprint("it is ", now)
		}
		return ""
	})
	return line
}

// Metrics is ztunnel's page, now.
func (e *Evidence) Metrics() string { return e.ztunnel().Metrics() }

// Grown is by how much a counter of the kernel grew since the moment, for all pods of the node.
func (e *Evidence) Grown(reason string) uint64 {
	e.t.Helper()
	return e.counters()[reason] - e.kernel[reason]
}

// Counted waits until the kernel counted the reason since the moment.
func (e *Evidence) Counted(reason string) {
	e.t.Helper()
	Eventually(e.t, told, fmt.Sprintf("node %s: the kernel counts %s", e.node, reason), func() string {
		if e.Grown(reason) == 0 {
			return "it does not"
		}
		return ""
	})
}

// By is how the access log names a connection that a pod opened from its address local. A reset may come so fast that the
// address was never known: then any of the pod's connections will do.
func By(local string, p *Pod) string {
	if local == "" {
		return "src.workload=" + p.Name
	}
	return "src.addr=" + local
}

// Metric adds up the samples of a metric in whose labels all the pairs (`key="value"`) stand.
func Metric(page, name string, pairs ...string) float64 {
	sum := 0.0
next:
	for line := range strings.Lines(page) {
		rest, ok := strings.CutPrefix(strings.TrimSpace(line), name+"{")
		if !ok {
			continue
		}
		end := strings.LastIndexByte(rest, '}')
		labels := "," + rest[:max(end, 0)] + ","
		for _, p := range pairs {
			if !strings.Contains(labels, ","+p+",") {
				continue next
			}
		}
		if v, err := strconv.ParseFloat(strings.TrimSpace(rest[end+1:]), 64); err == nil {
			sum += v
		}
	}
	return sum
}
