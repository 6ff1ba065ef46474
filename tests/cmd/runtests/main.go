// SPDX-License-Identifier: Apache-2.0

// Command runtests runs `go test -json` over packages, prints a line for each package as it finishes and the
// output of every test that failed, and ends with one line: "N passed, N failed, N skipped".
//
//	runtests [-C DIR] [-each] [-race] [-no-skips] [-fuzz 5s [-only-fuzz]] [packages] [-- further arguments of go test]
//
// With -C the packages are those of another module. With -fuzz every fuzz target of the packages is run for that long
// afterwards. The exit status is 1 when anything failed, or was skipped under -no-skips.
package main

import (
	"bufio"
	"flag"
	"fmt"
	"io"
	"os"
	"os/exec"
	"regexp"
	"runtime"
	"strings"
	"sync"
	"time"
)

func main() { os.Exit(run(os.Args[1:], os.Stdout, os.Stderr)) }

func run(args []string, stdout, stderr io.Writer) int {
	fs := flag.NewFlagSet("runtests", flag.ContinueOnError)
	fs.SetOutput(stderr)
	dir := fs.String("C", "", "run in this directory, which may be another module's")
	each := fs.Bool("each", false, "a line for each test, too, when it ends: for packages whose tests take long")
	race := fs.Bool("race", false, "run under the race detector")
	noSkips := fs.Bool("no-skips", os.Getenv("CI") == "true", "a skipped test is a failure (default: when CI=true)")
	fuzz := fs.Duration("fuzz", 0, "after the tests run each fuzz target for this long")
	onlyFuzz := fs.Bool("only-fuzz", false, "leave the tests out")
	if err := fs.Parse(args); err != nil {
		return 2
	}
	packages, further := split(fs.Args())
	if *race {
		further = append([]string{"-race"}, further...)
	}
	if *dir != "" {
		if err := os.Chdir(*dir); err != nil {
			fmt.Fprintln(stderr, "runtests:", err)
			return 2
		}
	}
	t := newTally(stdout)
	t.each = *each
	if !*onlyFuzz {
		goTest(t, append(further, packages...), stderr)
	}
	if *fuzz > 0 {
		fuzzAll(t, packages, further, *fuzz, stderr)
	}
	return t.finish(*noSkips)
}

// split parts "pkg... -- args..." in two; without packages everything is meant.
func split(args []string) (packages, further []string) {
	for i, a := range args {
		if a == "--" {
			args, further = args[:i], args[i+1:]
			break
		}
	}
	if len(args) == 0 {
		args = []string{"./..."}
	}
	return args, further
}

// goTest runs `go test -json` once and feeds its events to the tally.
func goTest(t *tally, args []string, stderr io.Writer) {
	cmd := exec.Command("go", append([]string{"test", "-json"}, args...)...)
	cmd.Stderr = stderr
	out, err := cmd.StdoutPipe()
	if err == nil {
		err = cmd.Start()
	}
	if err != nil {
		t.fail("go test", fmt.Sprintf("start go test: %v\n", err))
		return
	}
	in := bufio.NewReader(out)
	for {
		line, err := in.ReadBytes('\n')
		t.line(line)
		if err != nil {
			break
		}
	}
	failedBefore := t.failed
	if err := cmd.Wait(); err != nil && failedBefore == 0 {
		t.fail("go test", fmt.Sprintf("%v, though no test reported a failure\n", err))
	}
}

var fuzzFunction = regexp.MustCompile(`(?m)^func (Fuzz\w*)\(`)

// fuzzAll runs the fuzz targets of each package, as many at a time as there are processors: `go test -fuzz` takes one, and
// one that runs a few seconds is starting for half of them.
func fuzzAll(t *tally, packages, further []string, d time.Duration, stderr io.Writer) {
	targets, err := fuzzTargets(packages)
	if err != nil {
		t.fail("go list", err.Error()+"\n")
	}
	var mu sync.Mutex // of t
	var all sync.WaitGroup
	free := make(chan struct{}, runtime.NumCPU())
	for _, x := range targets {
		free <- struct{}{}
		all.Go(func() {
			defer func() { <-free }()
			once, printed := x.fuzz(d, further, stderr)
			mu.Lock()
			defer mu.Unlock()
			t.add(once, printed)
		})
	}
	all.Wait()
}

// fuzz runs the target, and returns what came of it and what there is to print.
func (x target) fuzz(d time.Duration, further []string, stderr io.Writer) (*tally, string) {
	args := append([]string{"-run", "^$", "-fuzz", "^" + x.name + "$", "-fuzztime", d.String(), "-parallel", "1", x.pkg}, further...)
	said := fmt.Sprintf("fuzz %s %s for %v\n", x.pkg, x.name, d)
	for again := false; ; again = true {
		var out strings.Builder
		once := newTally(&out)
		if goTest(once, args, stderr); again || once.failed == 0 || !endedLate(out.String()) {
			return once, said + out.String()
		}
		said += fmt.Sprintf("fuzz %s %s again: Go took the end of its time for a failure\n", x.pkg, x.name)
	}
}

// endedLate reports whether a fuzz target "failed" by the end of its own time alone, without an input that fails: a race in
// Go's fuzzing before 1.27 (go.dev/issue/75804).
func endedLate(output string) bool {
	return strings.Contains(output, "\n    context deadline exceeded\n") && !strings.Contains(output, "Failing input written to")
}

type target struct{ pkg, name string }

// fuzzTargets reads the test files instead of asking each package's tests, which would have to be built for it.
func fuzzTargets(patterns []string) ([]target, error) {
	const format = `{{range .TestGoFiles}}{{$.ImportPath}} {{$.Dir}}/{{.}}{{"\n"}}{{end}}{{range .XTestGoFiles}}{{$.ImportPath}} {{$.Dir}}/{{.}}{{"\n"}}{{end}}`
	out, err := exec.Command("go", append([]string{"list", "-f", format}, patterns...)...).Output()
	if err != nil {
		return nil, fmt.Errorf("list packages: %w", err)
	}
	var targets []target
	for line := range strings.Lines(string(out)) {
		pkg, file, ok := strings.Cut(strings.TrimSpace(line), " ")
		if !ok {
			continue
		}
		b, err := os.ReadFile(file)
		if err != nil {
			return nil, err
		}
		for _, m := range fuzzFunction.FindAllSubmatch(b, -1) {
			targets = append(targets, target{pkg, string(m[1])})
		}
	}
	return targets, nil
}
