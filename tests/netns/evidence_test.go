// SPDX-License-Identifier: Apache-2.0

package netns

import (
	"encoding/json"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/warren-mesh/warren/tests/testutil"
)

// told is how long the mesh may take to write down what it did. The data path never waits for log and metrics.
const told = 10 * time.Second

// evidence is what the mesh itself says of one node from a moment on: ztunnel's access log, its metrics, and the
// kernel's counters. Tests of refusals assert on it, and not on an error alone, which can have any cause.
type evidence struct {
	t       testing.TB
	node    *Node
	logged  int // bytes of log before the moment
	metrics string
	kernel  map[string]uint64
}

// witness begins to look at a node.
func witness(t testing.TB, n *Node) *evidence {
	t.Helper()
	e := &evidence{t: t, node: n, logged: len(n.System.Ztunnel.Output())}
	e.metrics, e.kernel = e.scrape(), e.counters()
	return e
}

// in is the same evidence in a subtest.
func (e *evidence) in(t testing.TB) *evidence {
	sub := *e
	sub.t = t
	return &sub
}

func (e *evidence) scrape() string {
	e.t.Helper()
	body, status, err := e.node.System.Ztunnel.Pod.Get("http://localhost:15020/metrics")
	if err != nil || status != 200 {
		e.t.Fatalf("metrics of node %s: status %d, %v", e.node.Name, status, err)
	}
	return body
}

// counters are the kernel's, by reason.
func (e *evidence) counters() map[string]uint64 {
	e.t.Helper()
	body, status, err := e.node.System.Agent.Pod.Get("http://localhost:15000/debug/bpf")
	var stats struct {
		Reasons map[string]uint64 `json:"reasons"`
	}
	if err == nil {
		err = json.Unmarshal([]byte(body), &stats)
	}
	if err != nil || status != 200 {
		e.t.Fatalf("kernel counters of node %s: status %d, %v", e.node.Name, status, err)
	}
	return stats.Reasons
}

// lines are the access log's lines since the moment in which all the parts stand.
func (e *evidence) lines(parts ...string) []string {
	var out []string
next:
	for line := range strings.Lines(e.node.System.Ztunnel.Output()[e.logged:]) {
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

// line waits for such a line and returns the first.
func (e *evidence) line(parts ...string) string {
	e.t.Helper()
	var found []string
	e.eventually(fmt.Sprintf("a line with %q in the access log", parts), func() bool {
		found = e.lines(parts...)
		return len(found) > 0
	})
	return found[0]
}

func (e *evidence) eventually(what string, done func() bool) {
	e.t.Helper()
	defer func() {
		if e.t.Failed() {
			e.t.Logf("access log of node %s since then:\n%s", e.node.Name, strings.Join(e.lines(), ""))
		}
	}()
	testutil.Eventually(e.t, told, "node "+e.node.Name+": "+what, done)
}

// ended waits until a connection ended with this reason, in the access log, with the parts, and in the metrics of the
// same end. It returns the line.
func (e *evidence) ended(reporter, reason string, parts ...string) string {
	e.t.Helper()
	direction := map[string]string{"source": "outbound", "destination": "inbound"}[reporter]
	line := e.line(append(parts, "direction="+direction, "reason="+reason)...)
	labels := []string{`reporter="` + reporter + `"`, `reason="` + reason + `"`}
	before := metric(e.metrics, "warren_connections_total", labels...)
	e.eventually(fmt.Sprintf("metric %v grows from %v", labels, before), func() bool {
		return metric(e.scrape(), "warren_connections_total", labels...) > before
	})
	return line
}

// grown is by how much a counter of the kernel grew since the moment.
func (e *evidence) grown(reason string) uint64 {
	e.t.Helper()
	return e.counters()[reason] - e.kernel[reason]
}

// counted waits until the kernel counted the reason since the moment.
func (e *evidence) counted(reason string) {
	e.t.Helper()
	e.eventually("the kernel counts "+reason, func() bool { return e.grown(reason) > 0 })
}

// by is how the access log names a connection that a pod opened from its address local. A reset may come so fast that
// the address was never known: then any of the pod's connections will do.
func by(local string, p *Pod) string {
	if local == "" {
		return "src.workload=" + p.Name
	}
	return "src.addr=" + local
}

// metric adds up the samples of a metric in whose labels all the pairs (`key="value"`) stand.
func metric(page, name string, pairs ...string) float64 {
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
		v, err := strconv.ParseFloat(strings.TrimSpace(rest[end+1:]), 64)
		if err == nil {
			sum += v
		}
	}
	return sum
}

func containsAny(s string, parts ...string) bool {
	return slices.ContainsFunc(parts, func(p string) bool { return strings.Contains(s, p) })
}

// waitKnown waits until a node's ztunnel knows a pod of this name, or no longer does.
func (m *Mesh) waitKnown(t *testing.T, n *Node, pod string, known bool) {
	t.Helper()
	testutil.Eventually(t, told, fmt.Sprintf("ztunnel of node %s knows pod %s: %v", n.Name, pod, known), func() bool {
		body, _, err := n.System.Ztunnel.Pod.Get("http://localhost:15000/config_dump")
		var dump struct {
			Workloads []struct {
				Name string `json:"name"`
			} `json:"workloads"`
		}
		if err == nil {
			err = json.Unmarshal([]byte(body), &dump)
		}
		found := false
		for _, w := range dump.Workloads {
			found = found || w.Name == pod
		}
		return err == nil && found == known
	})
}

// waitHeld waits until ztunnel holds a connection of the pod without having decided about it.
func (m *Mesh) waitHeld(t *testing.T, p *Pod) {
	t.Helper()
	testutil.Eventually(t, told, "ztunnel holds a connection of "+p.String(), func() bool {
		body, _, err := p.Node.System.Ztunnel.Pod.Get("http://localhost:15000/debug/connections")
		var pods map[string]struct {
			Connections struct {
				Outbound []struct {
					Established bool `json:"established"`
				} `json:"outbound"`
			} `json:"connections"`
		}
		if err != nil || json.Unmarshal([]byte(body), &pods) != nil {
			return false
		}
		for _, c := range pods[p.UID].Connections.Outbound {
			if !c.Established {
				return true
			}
		}
		return false
	})
}

func TestMetric(t *testing.T) {
	page := "# HELP x\nx{a=\"1\",b=\"2\"} 3\nx{a=\"1\",b=\"3\"} 4\nxx{a=\"1\"} 100\nx{ba=\"1\"} 1000\n"
	for _, tt := range []struct {
		pairs []string
		want  float64
	}{{[]string{`a="1"`}, 7}, {[]string{`a="1"`, `b="3"`}, 4}, {[]string{`a="2"`}, 0}, {nil, 1007}} {
		if got := metric(page, "x", tt.pairs...); got != tt.want {
			t.Errorf("%v: got %v, want %v", tt.pairs, got, tt.want)
		}
	}
}
