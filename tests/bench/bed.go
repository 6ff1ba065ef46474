// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"runtime"
	"slices"
	"time"

	"github.com/warren-mesh/warren/tests/netns"
)

// bed is a mesh of two nodes, and every system on it. It plays the test that package netns wants.
type bed struct {
	out      io.Writer
	errs     []error
	cleanups []func()
	systems  []*system
	profiles profiles
}

var _ netns.T = (*bed)(nil)

func (b *bed) Helper()                         {}
func (b *bed) Name() string                    { return "bench" }
func (b *bed) Failed() bool                    { return len(b.errs) > 0 }
func (b *bed) Cleanup(f func())                { b.cleanups = append(b.cleanups, f) }
func (b *bed) Logf(format string, args ...any) { fmt.Fprintf(b.out, format+"\n", args...) }
func (b *bed) Errorf(format string, args ...any) {
	b.errs = append(b.errs, fmt.Errorf(format, args...))
}
func (b *bed) Fatalf(format string, args ...any) {
	b.Errorf(format, args...)
	runtime.Goexit()
}

// measure makes the bed, runs every scenario on it, and takes it down again.
func measure(ctx context.Context, s settings, out io.Writer) ([]row, error) {
	b := &bed{out: out}
	var t tally
	done := make(chan struct{})
	go func() { // Fatalf ends this goroutine, as it would a test's
		defer close(done)
		defer b.cleanup()
		if err := b.make(ctx, s); err != nil {
			b.Fatalf("%w", err)
		}
		if err := b.rounds(ctx, s, &t); err != nil {
			b.Errorf("%w", err)
		}
	}()
	<-done
	return t.rows(), errors.Join(b.errs...)
}

func (b *bed) cleanup() {
	for _, f := range slices.Backward(b.cleanups) {
		f()
	}
}

func (b *bed) make(ctx context.Context, s settings) error {
	started := time.Now()
	fmt.Fprintln(b.out, "starting two nodes and", s.systems, "(about 3 s, and a minute more when Warren must be compiled first)")
	dir, err := os.MkdirTemp("", "warren-bench-")
	if err != nil {
		return err
	}
	b.Cleanup(func() { _ = os.RemoveAll(dir) })
	m := netns.New(b, netns.Options{Unsealed: s.profile != ""}) // a sealed ztunnel takes no profiles
	m.Namespace("inside", netns.Enrolled())
	for _, near := range []bool{false, true} {
		if !slices.ContainsFunc(s.scenarios, func(sc scenario) bool { return sc.near == near }) {
			continue
		}
		for _, name := range s.systems {
			b.systems = append(b.systems, newSystem(m, name, near))
		}
	}
	if slices.Contains(s.systems, warren) {
		m.Up()
		b.profiles = profiles{dir: s.profile, nodes: m.Nodes()}
	}
	for _, sys := range b.systems {
		if err := sys.start(ctx, m, dir); err != nil {
			return fmt.Errorf("%s: %w", sys.name, err)
		}
	}
	fmt.Fprintf(b.out, "up in %v\n", time.Since(started).Round(10*time.Millisecond))
	return nil
}
