// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bytes"
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/warren-mesh/warren/tests/netns"
	"github.com/warren-mesh/warren/tests/testutil"
)

func TestMain(m *testing.M) {
	if os.Getenv(roleVariable) != "" {
		play()
	}
	netns.Main(m)
}

// TestBench runs everything for a moment. It asserts what is reported, never how fast anything was.
func TestBench(t *testing.T) {
	testutil.Privileged(t)
	systems := []string{none, haproxy, warren}
	if _, err := exec.LookPath("haproxy"); err != nil {
		if os.Getenv("CI") == "true" {
			t.Fatal(err)
		}
		t.Log("without HAProxy:", err)
		systems = []string{none, warren}
	}
	file := filepath.Join(t.TempDir(), "made", "bench.json")
	var out, errs bytes.Buffer
	args := []string{"-rounds", "1", "-duration", "60ms", "-idle", "50", "-systems", strings.Join(systems, ","), "-out", file}
	if code := run(args, &out, &errs); code != 0 {
		t.Fatalf("exit code %d: %s\n%s", code, errs.String(), out.String())
	}
	t.Log(out.String())
	b, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	d := json.NewDecoder(bytes.NewReader(b))
	d.DisallowUnknownFields()
	var rows []row
	if err := d.Decode(&rows); err != nil {
		t.Fatal(err)
	}
	checkRows(t, rows, systems)
	if !strings.Contains(out.String(), "cpu_us_per_conn") || !strings.Contains(out.String(), "about") {
		t.Error("no table, or no word of how long it takes")
	}
}

// TestFeatures runs variants of Warren beside each other, and other binaries; run fails if what a variant is about was not
// so.
func TestFeatures(t *testing.T) {
	testutil.Privileged(t)
	bin, err := netns.Binaries()
	if err != nil {
		t.Fatal(err)
	}
	var out, errs bytes.Buffer
	args := []string{"-rounds", "2", "-duration", "60ms", "-idle", "50", "-scenario", "memory,requests-1,connections", "-out", filepath.Join(t.TempDir(), "bench.json"),
		"-systems", strings.Join([]string{warrenBare, warren, warrenTen, warrenTraced}, ","), "-before", bin}
	if code := run(args, &out, &errs); code != 0 {
		t.Fatalf("exit code %d: %s\n%s", code, errs.String(), out.String())
	}
	t.Log(out.String())
	_, table, _ := strings.Cut(out.String(), "what features add")
	for _, want := range []string{warrenTraced, warrenBefore, "new connection", "request", "open connection"} {
		if !strings.Contains(table, want) {
			t.Errorf("%s is not in the table of features", want)
		}
	}
}

// checkRows wants every scenario of every system, with sane figures.
func checkRows(t *testing.T, rows []row, systems []string) {
	seen := map[cell]bool{}
	for _, r := range rows {
		c := cell{r.Scenario, r.System, r.Metric}
		if seen[c] {
			t.Errorf("%+v: reported twice", c)
		}
		seen[c] = true
		// So few idle connections can fit into memory that was there.
		if r.Runs != 1 || r.Unit == "" || r.Metric != "kib_per_conn" && (r.Value <= 0 || r.Ratio <= 0) {
			t.Errorf("%+v", r)
		}
		if r.Baseline == r.System && r.Metric != "kib_per_conn" && r.Ratio != 1 {
			t.Errorf("%+v: a baseline's own ratio is 1", r)
		}
	}
	for _, sc := range scenarios {
		for _, system := range systems {
			for _, metric := range expected(sc, system) {
				if !seen[cell{sc.name, system, metric}] {
					t.Errorf("no %s of %s for %s", metric, sc.name, system)
				}
			}
		}
	}
}

func expected(sc scenario, system string) []string {
	mesh := map[string][]string{
		kindIdle: {"rss_mib"}, kindMemory: {"kib_per_conn"}, kindBytes: {"cpu_s_per_gb"},
		kindRequests: {"cpu_us_per_req"}, kindPaced: {"cpu_us_per_req"}, kindConnections: {"cpu_us_per_conn"},
	}
	all := map[string][]string{
		kindBytes: {"gbit_s"}, kindRequests: {"req_s", "p50_us", "p999_us"}, kindPaced: {"req_s", "p99_us"}, kindConnections: {"conn_s", "p90_us"},
	}
	if system == none {
		return all[sc.kind]
	}
	return slices.Concat(mesh[sc.kind], all[sc.kind])
}

// TestLiarIsAnError has a server that answers wrongly: no load may count that.
func TestLiarIsAnError(t *testing.T) {
	for _, kind := range []string{kindRequests, kindPaced, kindConnections, kindBytes} {
		t.Run(kind, func(t *testing.T) {
			r := &runner{order: order{Kind: kind, Target: liar(t), Conns: 1, Size: onceSize, Rate: 100, Duration: 10 * time.Millisecond}}
			defer r.close()
			err := r.connect()
			parts := map[string]func() error{kindRequests: r.requests, kindPaced: r.paced, kindConnections: r.connections, kindBytes: r.bytes}
			if err == nil {
				err = parts[kind]()
			}
			if err == nil || !strings.Contains(err.Error(), "wrong answer") && !strings.Contains(err.Error(), "checksum") {
				t.Errorf("got %v, want the wrong answer named", err)
			}
		})
	}
}
