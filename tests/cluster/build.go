// SPDX-License-Identifier: Apache-2.0

package cluster

import (
	"bytes"
	"context"
	"encoding/json"
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
	_, err := build(ctx, newReport(out))
	return err
}

func build(ctx context.Context, r *report) (tools, error) {
	cache, err := Cache()
	if err != nil {
		return nil, err
	}
	version, err := exec.CommandContext(ctx, "go", "env", "GOVERSION", "GOOS", "GOARCH").Output()
	if err != nil {
		return nil, fmt.Errorf("ask go for its version: %w (install Go 1.26 or newer from https://go.dev/dl and put it on PATH)", err)
	}
	b := &builder{ctx: ctx, cache: cache, report: r, compiler: strings.Join(strings.Fields(string(version)), " ")}
	unlock, err := b.lock()
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

// lock keeps two builds on one machine from doing the same work side by side.
func (b *builder) lock() (unlock func(), err error) {
	if err := os.MkdirAll(filepath.Join(b.cache, "bin"), 0o755); err != nil {
		return nil, fmt.Errorf("create cache: %w", err)
	}
	f, err := os.OpenFile(filepath.Join(b.cache, "build.lock"), os.O_CREATE|os.O_RDWR, 0o644)
	if err != nil {
		return nil, fmt.Errorf("lock cache: %w", err)
	}
	for waited := false; ; waited = true {
		err := syscall.Flock(int(f.Fd()), syscall.LOCK_EX|syscall.LOCK_NB)
		if err == nil {
			return func() { _ = f.Close() }, nil
		}
		if !errors.Is(err, syscall.EWOULDBLOCK) {
			_ = f.Close()
			return nil, fmt.Errorf("lock cache: %w", err)
		}
		if !waited {
			b.report.note("another build is under way: waiting for it")
		}
		select {
		case <-b.ctx.Done():
			_ = f.Close()
			return nil, fmt.Errorf("wait for another build: %w", b.ctx.Err())
		case <-time.After(200 * time.Millisecond):
		}
	}
}

func (b *builder) build(r recipe) (string, error) {
	key, err := r.key(b.compiler)
	if err != nil {
		return "", err
	}
	out := filepath.Join(b.cache, "bin", r.name+"-"+key)
	if _, err := os.Stat(out); err == nil {
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

// seccomp finds libseccomp for the linker: the system's, or Debian's development package unpacked beside the build.
func (b *builder) seccomp(work string) ([]string, error) {
	for _, tool := range []string{"gcc", "pkg-config"} {
		if _, err := exec.LookPath(tool); err != nil {
			return nil, fmt.Errorf("find %s: %w (apt-get install gcc libc6-dev pkg-config libseccomp-dev)", tool, err)
		}
	}
	if exec.CommandContext(b.ctx, "pkg-config", "--exists", "libseccomp").Run() == nil {
		return []string{"CGO_ENABLED=1"}, nil
	}
	dir := filepath.Join(work, "seccomp")
	script := `mkdir -p "$1" && cd "$1" && apt-get download libseccomp-dev && dpkg-deb -x libseccomp-dev_*.deb . && find . -name 'libseccomp.so*' -delete`
	cmd := exec.CommandContext(b.ctx, "sh", "-c", script, "sh", dir)
	if out, err := cmd.CombinedOutput(); err != nil {
		return nil, fmt.Errorf("fetch libseccomp-dev: %w: %s (apt-get install libseccomp-dev)", err, strings.TrimSpace(string(out)))
	}
	found, _ := filepath.Glob(filepath.Join(dir, "usr/lib/*/pkgconfig"))
	if len(found) == 0 {
		return nil, errors.New("find libseccomp.pc in Debian's libseccomp-dev: it is not there (apt-get install libseccomp-dev)")
	}
	return []string{"CGO_ENABLED=1", "PKG_CONFIG_PATH=" + found[0], "PKG_CONFIG_SYSROOT_DIR=" + dir}, nil
}

// copyCRDs takes the definitions Warren reads out of their modules.
func copyCRDs(b *builder, src, out string) error {
	cmd := exec.CommandContext(b.ctx, "go", "mod", "download", "-json", "sigs.k8s.io/gateway-api", "istio.io/api")
	cmd.Dir, cmd.Env = src, environment()
	list, err := cmd.Output()
	if err != nil {
		return fmt.Errorf("download modules: %w", err)
	}
	for d := json.NewDecoder(bytes.NewReader(list)); d.More(); {
		var m struct{ Path, Dir string }
		if err := d.Decode(&m); err != nil {
			return fmt.Errorf("download modules: %w", err)
		}
		pattern := "config/crd/experimental/gateway.*.yaml"
		if m.Path == "istio.io/api" {
			pattern = "kubernetes/customresourcedefinitions.gen.yaml"
		}
		files, _ := filepath.Glob(filepath.Join(m.Dir, pattern))
		if len(files) == 0 {
			return fmt.Errorf("find %s in %s: no such file", pattern, m.Path)
		}
		for _, f := range files {
			y, err := os.ReadFile(f)
			if err != nil {
				return fmt.Errorf("read definitions: %w", err)
			}
			if err := os.WriteFile(filepath.Join(out, filepath.Base(f)), y, 0o644); err != nil {
				return fmt.Errorf("write definitions: %w", err)
			}
		}
	}
	return nil
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
