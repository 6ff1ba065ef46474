// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bytes"
	"io"
	"net"
	"os"
	"slices"
	"strings"
	"testing"
	"time"
)

// liar flips a bit of everything it sends back.
func liar(t *testing.T) string {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			go lie(c)
		}
	}()
	return l.Addr().String()
}

func lie(c net.Conn) {
	defer c.Close()
	mode := make([]byte, 1)
	if _, err := io.ReadFull(c, mode); err != nil {
		return
	}
	if mode[0] == modeSink {
		_, _ = io.Copy(io.Discard, c)
		_, _ = c.Write(make([]byte, summarySize))
		return
	}
	for b := make([]byte, 4096); ; {
		n, err := c.Read(b)
		if err != nil {
			return
		}
		b[n-1] ^= 1
		_, _ = c.Write(b[:n])
	}
}

func TestRows(t *testing.T) {
	var tl tally
	for _, v := range []float64{5, 1, 3} {
		tl.add("requests-1", haproxy, map[string]float64{"cpu_us_per_req": 2 * v})
		tl.add("requests-1", warren, map[string]float64{"cpu_us_per_req": v, "req_s": 100})
	}
	tl.add("idle", warren, map[string]float64{"rss_mib": 7})
	want := []row{
		{"idle", warren, "rss_mib", 7, "MiB", warren, 1, 1},
		{"requests-1", haproxy, "cpu_us_per_req", 6, "µs", haproxy, 1, 3},
		{"requests-1", warren, "cpu_us_per_req", 3, "µs", haproxy, 0.5, 3},
		{"requests-1", warren, "req_s", 100, "1/s", warren, 1, 3},
	}
	got := tl.rows()
	if len(got) != len(want) {
		t.Fatalf("got %+v", got)
	}
	for i := range want {
		if got[i] != want[i] {
			t.Errorf("row %d: got %+v, want %+v", i, got[i], want[i])
		}
	}
	var out bytes.Buffer
	printTable(&out, got, []string{haproxy, warren})
	if !strings.Contains(out.String(), "3.00 (0.50)") {
		t.Errorf("no ratio in the table:\n%s", out.String())
	}
}

// TestAddition wants what a feature adds to be told round by round: a machine that slows down adds nothing.
func TestAddition(t *testing.T) {
	var tl tally
	for i, bare := range []float64{100, 200, 400} {
		tl.add("connections", warrenBare, map[string]float64{"cpu_us_per_conn": bare})
		tl.add("connections", warren, map[string]float64{"cpu_us_per_conn": bare * []float64{1.2, 1.1, 1.4}[i]})
	}
	tl.add("memory", warrenBare, map[string]float64{"kib_per_conn": 0})
	tl.add("memory", warren, map[string]float64{"kib_per_conn": 1})
	a, ok := tl.addition(cell{"connections", warren, "cpu_us_per_conn"})
	if got := a.String(); !ok || got != "+20.00 x1.20 (1.15-1.30)" {
		t.Errorf("got %s, %v", got, ok)
	}
	for _, c := range []cell{{"connections", warrenTen, "cpu_us_per_conn"}, {"memory", warren, "kib_per_conn"}} {
		if a, ok := tl.addition(c); ok {
			t.Errorf("%v: %v of nothing", c, a)
		}
	}
	var out bytes.Buffer
	tl.printFeatures(&out, []string{haproxy, warren})
	if out.Len() > 0 {
		t.Errorf("without the bare one:\n%s", out.String())
	}
	tl.printFeatures(&out, []string{haproxy, warrenBare, warren, warrenTen})
	var lines []string
	for line := range strings.Lines(out.String()) {
		lines = append(lines, strings.Join(strings.Fields(line), " "))
	}
	if len(lines) != 5 || lines[2] != "for each scenario unit warren-bare warren warren-10" || lines[3] != "new connection connections µs 200 +20.00 x1.20 (1.15-1.30) -" {
		t.Errorf("got\n%s", out.String())
	}
}

func TestQuantile(t *testing.T) {
	for share, want := range map[float64]float64{0: 1, 0.25: 1.75, 0.5: 2.5, 1: 4} {
		if got := quantile([]float64{4, 2, 1, 3}, share); got != want {
			t.Errorf("%v of 1 to 4: got %v, want %v", share, got, want)
		}
	}
}

func TestQuantiles(t *testing.T) {
	var l latencies
	for i := 1000; i > 0; i-- {
		l = append(l, time.Duration(i))
	}
	if got, want := l.quantiles(), [4]time.Duration{501, 901, 991, 1000}; got != want {
		t.Errorf("got %v, want %v", got, want)
	}
	if got := latencies(nil).quantiles(); got != [4]time.Duration{} {
		t.Errorf("of none: %v", got)
	}
}

// TestCPUTime wants the clock of a process to run while it works, and an error when there is no such process.
func TestCPUTime(t *testing.T) {
	before, err := cpuTimes([]group{{"self", []int{os.Getpid()}}})
	if err != nil {
		t.Fatal(err)
	}
	for end := time.Now().Add(20 * time.Millisecond); time.Now().Before(end); {
	}
	after, err := cpuTimes([]group{{"self", []int{os.Getpid()}}})
	if err != nil || after[0] <= before[0] {
		t.Errorf("%v, then %v (%v)", before, after, err)
	}
	if _, err := cpuTime(1 << 22); err == nil {
		t.Error("a process that isn't there has a clock")
	}
}

func TestParse(t *testing.T) {
	for _, args := range [][]string{{"-systems", "envoy"}, {"-scenario", "nothing"}, {"-rounds", "0"}, {"-duration", "0s"}} {
		if _, err := parse(args, io.Discard); err == nil {
			t.Errorf("%v: accepted", args)
		}
	}
	for _, args := range [][]string{{"-systems", "warren,warren-before"}, {"-systems", "warren-11"}} {
		if _, err := parse(args, io.Discard); err == nil {
			t.Errorf("%v: accepted", args)
		}
	}
	if s, err := parse([]string{"-systems", "warren", "-before", "dir"}, io.Discard); err != nil || !slices.Equal(s.systems, []string{warren, warrenBefore}) {
		t.Errorf("systems %v, %v; want the other binaries too", s.systems, err)
	}
	s, err := parse([]string{"-scenario", "requests,paced"}, io.Discard)
	if err != nil || len(s.scenarios) != 4 {
		t.Errorf("got %d scenarios, %v; want 4", len(s.scenarios), err)
	}
}
