// SPDX-License-Identifier: Apache-2.0

// Command bench measures Warren between two nodes beside no mesh at all, beside a pair of HAProxy mTLS relays, and beside
// itself with more or less turned on: alike pods, alike wires, interleaved rounds. It prints a table and writes
// build/bench.json. It reports figures and judges none; what it refuses is a wrong answer, a wrong checksum, a process of
// the mesh that died meanwhile, or a feature that turns out to have been off.
//
//	go run ./tests/bench [-rounds 3] [-duration 2s] [-scenario requests] [-systems haproxy,warren] [-out FILE]
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/signal"
	"slices"
	"strings"
	"syscall"
	"time"

	"github.com/warren-mesh/warren/tests/netns"
)

func main() {
	netns.Init()
	play()
	os.Exit(run(os.Args[1:], os.Stdout, os.Stderr))
}

// settings is what the command line says.
type settings struct {
	rounds    int
	duration  time.Duration // of one run
	scenarios []scenario
	systems   []string
	idle      int // connections held for the memory scenario
	out       string
	profile   string
	before    string // directory of binaries
}

func run(args []string, stdout, stderr io.Writer) int {
	s, err := parse(args, stderr)
	if err != nil {
		if !errors.Is(err, flag.ErrHelp) {
			fmt.Fprintln(stderr, "bench:", err)
		}
		return 2
	}
	if os.Geteuid() != 0 {
		fmt.Fprintln(stderr, "bench: network namespaces and kernel programs need root (sudo make bench)")
		return 1
	}
	for _, left := range netns.Sweep() {
		fmt.Fprintln(stdout, "removed from an earlier run:", left)
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	t, err := measure(ctx, s, stdout)
	if err == nil {
		rows := t.rows()
		printTable(stdout, rows, s.systems)
		t.printFeatures(stdout, s.systems)
		err = writeJSON(s.out, rows)
	}
	if err != nil {
		fmt.Fprintln(stderr, "bench:", err)
		return 1
	}
	fmt.Fprintln(stdout, "written to", s.out)
	return 0
}

func parse(args []string, stderr io.Writer) (settings, error) {
	var s settings
	fs := flag.NewFlagSet("bench", flag.ContinueOnError)
	fs.SetOutput(stderr)
	fs.IntVar(&s.rounds, "rounds", 3, "rounds of all systems; figures are medians over them")
	fs.DurationVar(&s.duration, "duration", 2*time.Second, "how long one run lasts")
	fs.IntVar(&s.idle, "idle", 1000, "connections held idle to measure their memory")
	fs.StringVar(&s.out, "out", "build/bench.json", "where the figures are written")
	fs.StringVar(&s.profile, "profile", "", "existing directory for CPU profiles of the ztunnels, taken in the last round")
	names := fs.String("scenario", "", "only scenarios whose name begins so, comma-separated: "+strings.Join(scenarioNames(), " "))
	systems := fs.String("systems", "none,haproxy,warren", "what is measured, in this order, of "+strings.Join(systemNames(), " "))
	fs.StringVar(&s.before, "before", "", "directory with other binaries of Warren, which are then measured as "+warrenBefore)
	if err := fs.Parse(args); err != nil {
		return s, err
	}
	s.systems = strings.Split(*systems, ",")
	for _, name := range s.systems {
		if !slices.Contains(systemNames(), name) {
			return s, fmt.Errorf("-systems: unknown system %q", name)
		}
	}
	switch asked := slices.Contains(s.systems, warrenBefore); {
	case asked && s.before == "":
		return s, fmt.Errorf("-systems: %s are the binaries of -before, which names none", warrenBefore)
	case !asked && s.before != "":
		s.systems = append(s.systems, warrenBefore)
	}
	for _, sc := range scenarios {
		for prefix := range strings.SplitSeq(*names, ",") {
			if strings.HasPrefix(sc.name, prefix) {
				s.scenarios = append(s.scenarios, sc)
				break
			}
		}
	}
	switch {
	case len(s.scenarios) == 0:
		return s, fmt.Errorf("-scenario: none begins with %q", *names)
	case s.rounds < 1 || s.duration <= 0 || s.idle < 1:
		return s, errors.New("-rounds, -duration and -idle must be positive")
	}
	return s, nil
}
