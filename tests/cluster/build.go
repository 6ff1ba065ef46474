// SPDX-License-Identifier: Apache-2.0

package cluster

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"syscall"
	"time"
)

// Cache is the directory all users' clones on this machine share: below the user's cache directory.
func Cache() (string, error) {
	dir, err := os.UserCacheDir()
	if err != nil {
		return "", fmt.Errorf("find cache directory: %w (set HOME or XDG_CACHE_HOME)", err)
	}
	return filepath.Join(dir, "warren-testcluster"), nil
}

// tools are the directories of the built recipes by name.
type tools map[string]string

func (t tools) path(recipe, file string) string { return filepath.Join(t[recipe], file) }

// builder builds recipes into the cache, each into a directory of its own that is complete once it exists.
type builder struct {
	ctx      context.Context
	cache    string
	compiler string // go version and target
	report   *report
}

// Build makes every program of the cluster, or finds it in the cache, and tells out how it goes. The first time it takes
// 15 to 20 minutes of two cores, nearly all of it for Kubernetes; later less than a second. Up does it, too.
func Build(ctx context.Context, out io.Writer) error {
	if err := errors.Join(thisMachine(ctx).lackingTools()...); err != nil {
		return fmt.Errorf("build cluster: this machine lacks something:\n%w", err)
	}
	_, err := build(ctx, newReport(out))
	return err
}

func newBuilder(ctx context.Context, r *report) (*builder, error) {
	cache, err := Cache()
	if err != nil {
		return nil, err
	}
	version, err := exec.CommandContext(ctx, "go", "env", "GOVERSION", "GOOS", "GOARCH").Output()
	if err != nil {
		return nil, fmt.Errorf("ask go for its version: %w (install Go 1.26 or newer from https://go.dev/dl and put it on PATH)", err)
	}
	return &builder{ctx: ctx, cache: cache, report: r, compiler: strings.Join(strings.Fields(string(version)), " ")}, nil
}

// find is where the recipe's outcome lies, or will, and whether it does.
func (b *builder) find(r recipe) (dir string, built bool, err error) {
	key, err := r.key(b.compiler)
	if err != nil {
		return "", false, err
	}
	dir = filepath.Join(b.cache, "bin", r.name+"-"+key)
	_, err = os.Stat(dir)
	return dir, err == nil, nil
}

func build(ctx context.Context, r *report) (tools, error) {
	b, err := newBuilder(ctx, r)
	if err != nil {
		return nil, err
	}
	if err := os.MkdirAll(filepath.Join(b.cache, "bin"), 0o755); err != nil {
		return nil, fmt.Errorf("create cache: %w", err)
	}
	unlock, err := lockFile(ctx, filepath.Join(b.cache, "build.lock"), func() { r.note("another build is under way: waiting for it") })
	if err != nil {
		return nil, err
	}
	defer unlock()
	t := tools{}
	for _, rec := range recipes() {
		if t[rec.name], err = b.build(rec); err != nil {
			return nil, err
		}
	}
	return t, b.prune(slices.Collect(maps.Values(t)))
}

func (b *builder) build(r recipe) (string, error) {
	out, built, err := b.find(r)
	if err != nil {
		return "", err
	}
	if built {
		now := time.Now()
		_ = os.Chtimes(out, now, now) // prune goes by it
		return out, nil
	}
	done := b.report.stage("build " + r.name)
	work, err := os.MkdirTemp(b.cache, "build-")
	if err != nil {
		return "", fmt.Errorf("build %s: %w", r.name, err)
	}
	defer os.RemoveAll(work)
	src, made := filepath.Join(work, "src"), filepath.Join(work, "out")
	if err := os.MkdirAll(made, 0o755); err != nil {
		return "", fmt.Errorf("build %s: %w", r.name, err)
	}
	if err := r.write(src); err != nil {
		return "", err
	}
	if r.make != nil {
		if err := r.make(b, src, made); err != nil {
			return "", fmt.Errorf("build %s: %w", r.name, err)
		}
	}
	for _, p := range r.programs {
		if err := b.compile(r, p, src, made); err != nil {
			return "", fmt.Errorf("build %s: %w", p.out, err)
		}
	}
	if err := os.Chmod(made, 0o755); err != nil {
		return "", fmt.Errorf("build %s: %w", r.name, err)
	}
	if err := os.Rename(made, out); err != nil {
		return "", fmt.Errorf("build %s: %w", r.name, err)
	}
	done()
	return out, nil
}

// environment is the caller's without what would change the outcome.
func environment(add ...string) []string {
	env := slices.DeleteFunc(os.Environ(), func(kv string) bool {
		return strings.HasPrefix(kv, "GOFLAGS=") || strings.HasPrefix(kv, "GOOS=") || strings.HasPrefix(kv, "GOARCH=") || strings.HasPrefix(kv, "GOWORK=")
	})
	return append(env, append([]string{"GOFLAGS=", "GOWORK=off"}, add...)...)
}

func (b *builder) compile(r recipe, p program, src, out string) error {
	env := environment("CGO_ENABLED=0")
	if p.seccomp {
		cgo, err := b.seccomp(filepath.Dir(src))
		if err != nil {
			return err
		}
		env = environment(cgo...)
	}
	flags := []string{"-mod=readonly", "-buildvcs=false", "-trimpath"}
	if p.tags != "" {
		flags = append(flags, "-tags="+p.tags)
	}
	// The lowest priority: a build of many minutes must not disturb what else runs here.
	args := slices.Concat([]string{"-n", "19", "go", "build", "-v"}, flags, []string{"-ldflags=" + p.ldflags, "-o", filepath.Join(out, p.out)}, p.pkg)
	cmd := exec.CommandContext(b.ctx, "nice", args...)
	cmd.Dir, cmd.Env = src, env
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	cmd.Cancel = func() error { return syscall.Kill(-cmd.Process.Pid, syscall.SIGTERM) }
	progress := b.report.compiler(p.out)
	cmd.Stdout, cmd.Stderr = progress, progress
	if r.name == "kube" {
		progress.total = b.count(src, env, slices.Concat(flags, p.pkg))
	}
	if err := cmd.Run(); err != nil {
		return fmt.Errorf("go build: %w: %s", err, progress.tail())
	}
	return nil
}

// count is how many packages a build consists of, for the progress line; 0 when unknown.
func (b *builder) count(src string, env, args []string) int {
	cmd := exec.CommandContext(b.ctx, "go", append([]string{"list", "-deps"}, args...)...)
	cmd.Dir, cmd.Env = src, env
	b.report.note("fetching the modules of Kubernetes; then it is compiled: 15 to 20 minutes of two cores, this first time only")
	list, err := cmd.Output()
	if err != nil {
		return 0
	}
	return bytes.Count(list, []byte("\n"))
}

// unusedFor is how long the outcome of another version stays in the cache after its last use.
const unusedFor = 30 * 24 * time.Hour

// prune removes what was not used for long, and what an interrupted build left.
func (b *builder) prune(used []string) error {
	all, err := filepath.Glob(filepath.Join(b.cache, "bin", "*-*"))
	left, err2 := filepath.Glob(filepath.Join(b.cache, "build-*"))
	if err := errors.Join(err, err2); err != nil {
		return fmt.Errorf("prune cache: %w", err)
	}
	for _, dir := range all {
		if info, err := os.Stat(dir); err == nil && !slices.Contains(used, dir) && time.Since(info.ModTime()) > unusedFor {
			left = append(left, dir)
		}
	}
	for _, dir := range left {
		err = errors.Join(err, os.RemoveAll(dir))
	}
	return err
}

func sortedKeys[V any](m map[string]V) []string { return slices.Sorted(maps.Keys(m)) }

// arch is what images say they run on.
const arch = runtime.GOARCH
