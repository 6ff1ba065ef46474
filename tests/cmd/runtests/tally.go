// SPDX-License-Identifier: Apache-2.0

package main

import (
	"encoding/json"
	"fmt"
	"io"
	"strings"
	"time"
)

// event is one line of `go test -json`: see `go doc test2json`, and for the build actions `go help buildjson`.
type event struct {
	Action     string
	Package    string
	ImportPath string
	Test       string
	Output     string
	Elapsed    float64
}

// tally counts the outcomes and keeps each test's output until it is known whether anyone wants to read it.
type tally struct {
	out                     io.Writer
	started                 time.Time
	each                    bool // tell of each top-level test
	passed, failed, skipped int
	packages                int
	output                  map[string]*strings.Builder // by package and test
	failedIn                map[string]int              // failed tests by package
	skips                   []string
	failures                []string
}

func newTally(out io.Writer) *tally {
	return &tally{out: out, started: time.Now(), output: map[string]*strings.Builder{}, failedIn: map[string]int{}}
}

// line takes one line of JSON. What is no JSON (a tool's own words) is passed through.
func (t *tally) line(b []byte) {
	if len(strings.TrimSpace(string(b))) == 0 {
		return
	}
	var e event
	if json.Unmarshal(b, &e) != nil {
		fmt.Fprintf(t.out, "%s", b)
		return
	}
	if e.Package == "" {
		e.Package, _, _ = strings.Cut(e.ImportPath, " ")
	}
	switch e.Action {
	case "output", "build-output":
		t.buffer(e).WriteString(e.Output)
	case "pass", "fail", "skip":
		t.outcome(e)
	}
}

func (t *tally) buffer(e event) *strings.Builder {
	key := e.Package + " " + e.Test
	if t.output[key] == nil {
		t.output[key] = &strings.Builder{}
	}
	return t.output[key]
}

func (t *tally) outcome(e event) {
	name := strings.TrimSpace(e.Package + " " + e.Test)
	text := t.buffer(e).String()
	delete(t.output, e.Package+" "+e.Test)
	if e.Test == "" {
		t.packageDone(e, text)
		return
	}
	if t.each && !strings.Contains(e.Test, "/") {
		fmt.Fprintf(t.out, "     %-4s %-53s %6.1fs\n", e.Action, e.Test, e.Elapsed)
	}
	switch e.Action {
	case "pass":
		t.passed++
	case "skip":
		t.skipped++
		t.skips = append(t.skips, name+"\n"+text)
	case "fail":
		t.failedIn[e.Package]++
		t.fail(name, text)
	}
}

// packageDone reports a package. One that failed without any failed test (it didn't build, panicked, or its TestMain
// gave up) counts as one failure.
func (t *tally) packageDone(e event, text string) {
	if e.Action == "fail" && t.failedIn[e.Package] == 0 {
		t.fail(e.Package, text+t.buffer(event{Package: e.Package}).String())
	}
	if e.Action == "skip" { // no test files
		return
	}
	t.packages++
	word := map[string]string{"pass": "ok  ", "fail": "FAIL"}[e.Action]
	fmt.Fprintf(t.out, "%s %-58s %6.1fs   [%d passed, %d failed so far]\n", word, e.Package, e.Elapsed, t.passed, t.failed)
}

func (t *tally) fail(name, text string) {
	t.failed++
	t.failures = append(t.failures, name)
	fmt.Fprintf(t.out, "--- FAIL: %s\n%s\n", name, text)
}

// add takes over what another has counted, and what it printed.
func (t *tally) add(o *tally, printed string) {
	t.passed, t.failed, t.skipped, t.packages = t.passed+o.passed, t.failed+o.failed, t.skipped+o.skipped, t.packages+o.packages
	t.failures, t.skips = append(t.failures, o.failures...), append(t.skips, o.skips...)
	fmt.Fprint(t.out, printed)
}

// finish prints the count, last, and returns the exit status.
func (t *tally) finish(noSkips bool) int {
	if t.skipped > 0 {
		fmt.Fprintf(t.out, "\nskipped:\n%s", strings.Join(t.skips, ""))
	}
	if t.failed > 0 {
		fmt.Fprintf(t.out, "\nfailed:\n  %s\n", strings.Join(t.failures, "\n  "))
	}
	fmt.Fprintf(t.out, "\n%d packages in %v\n", t.packages, time.Since(t.started).Round(100*time.Millisecond))
	status := 0
	if t.failed > 0 {
		status = 1
	}
	if noSkips && t.skipped > 0 {
		fmt.Fprintf(t.out, "skipped tests count as failures here: nothing may be left untested by accident\n")
		status = 1
	}
	fmt.Fprintf(t.out, "%d passed, %d failed, %d skipped\n", t.passed, t.failed, t.skipped)
	return status
}
