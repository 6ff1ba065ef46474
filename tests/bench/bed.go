// SPDX-License-Identifier: Apache-2.0

package main

import (
	"cmp"
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

// bed is every system, each variant of Warren on a mesh of two nodes. It plays the test that package netns wants.
type bed struct {
	out       io.Writer
	errs      []error
	cleanups  []func()
	installed []*installation
	systems   []*system
	profiles  profiles
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
func measure(ctx context.Context, s settings, out io.Writer) (*tally, error) {
	b, t := &bed{out: out}, &tally{}
	done := make(chan struct{})
	go func() { // Fatalf ends this goroutine, as it would a test's
		defer close(done)
		defer b.cleanup()
		if err := b.make(ctx, s); err != nil {
			b.Fatalf("%w", err)
		}
		if err := b.rounds(ctx, s, t); err != nil {
			b.Errorf("%w", err)
			return
		}
		for _, in := range b.installed {
			if err := in.checkTraces(); err != nil {
				b.Errorf("%w", err)
			}
		}
	}()
	<-done
	return t, errors.Join(b.errs...)
}

func (b *bed) cleanup() {
	for _, f := range slices.Backward(b.cleanups) {
		f()
	}
}

func (b *bed) make(ctx context.Context, s settings) error {
	started := time.Now()
	fmt.Fprintln(b.out, "starting two nodes for each of", s.systems, "(a few seconds, and a minute more when Warren must be compiled first)")
	dir, err := os.MkdirTemp("", "warren-bench-")
	if err != nil {
		return err
	}
	b.Cleanup(func() { _ = os.RemoveAll(dir) })
	if err := b.makeSystems(ctx, s); err != nil {
		return err
	}
	for _, in := range b.installed {
		in.mesh.Up()
		if err := in.check(); err != nil {
			return err
		}
		if in.name == warren {
			b.profiles = profiles{dir: s.profile, nodes: in.mesh.Nodes()}
		}
	}
	for _, sys := range b.systems {
		if err := sys.start(ctx, dir); err != nil {
			return fmt.Errorf("%s: %w", sys.name, err)
		}
	}
	fmt.Fprintf(b.out, "up in %v\n", time.Since(started).Round(10*time.Millisecond))
	return nil
}

// makeSystems makes the meshes and pods. Those outside the mesh are on nodes that have Warren, if there are any.
func (b *bed) makeSystems(ctx context.Context, s settings) error {
	var plain *netns.Mesh
	meshes := map[string]*netns.Mesh{}
	for _, name := range s.systems {
		i := variantIndex(name)
		if i < 0 {
			continue
		}
		in, err := b.install(ctx, s, variants[i])
		if err != nil {
			return fmt.Errorf("%s: %w", name, err)
		}
		b.installed = append(b.installed, in)
		meshes[name] = in.mesh
		if plain == nil {
			plain = in.mesh
		}
	}
	if plain == nil {
		plain = netns.New(b, netns.Options{})
	}
	for _, near := range []bool{false, true} {
		if !slices.ContainsFunc(s.scenarios, func(sc scenario) bool { return sc.near == near }) {
			continue
		}
		for _, name := range s.systems {
			b.systems = append(b.systems, newSystem(cmp.Or(meshes[name], plain), name, near))
		}
	}
	return nil
}
