// SPDX-License-Identifier: Apache-2.0

package install

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
)

const module = "github.com/warren-mesh/warren"

// source is the tree an image is made of.
type source struct {
	dir      string
	revision string // git's, with -dirty; empty outside of a repository
	version  string
}

// compile builds the programs into dir.
func compile(ctx context.Context, o BuildOptions, dir string) (source, error) {
	s, err := findSource(ctx, o.Source)
	if err != nil {
		return s, err
	}
	progress(o.Progress, "compiling %s for linux/%s (with cold caches about three minutes on two cores)", s.version, o.Arch)
	args := []string{"build", "-trimpath", "-ldflags=-s -w", "-o", dir + string(filepath.Separator)}
	for _, p := range Programs {
		args = append(args, "./cmd/"+p)
	}
	_, err = goTool(ctx, s.dir, []string{"CGO_ENABLED=0", "GOOS=linux", "GOARCH=" + o.Arch, "GOFLAGS="}, args...)
	return s, err
}

// findSource asks Go where Warren's module lies, seen from dir: there itself, or where a replace directive says.
func findSource(ctx context.Context, dir string) (source, error) {
	out, err := goTool(ctx, dir, nil, "list", "-m", "-f", "{{.Dir}}", module)
	if err != nil {
		return source{}, fmt.Errorf("find Warren's source: %w (stand in it, or name it)", err)
	}
	s := source{dir: strings.TrimSpace(out)}
	if s.dir == "" {
		return source{}, fmt.Errorf("find Warren's source: %s is not downloaded", module)
	}
	git := func(args ...string) string {
		b, err := exec.CommandContext(ctx, "git", append([]string{"-C", s.dir}, args...)...).Output()
		if err != nil {
			return ""
		}
		return strings.TrimSpace(string(b))
	}
	s.revision = git("describe", "--always", "--abbrev=40", "--dirty", "--exclude=*")
	if s.version = git("describe", "--tags", "--always", "--dirty"); s.version == "" {
		s.version = "devel"
	}
	return s, nil
}

// goTool runs the go command in dir.
func goTool(ctx context.Context, dir string, env []string, args ...string) (string, error) {
	cmd := exec.CommandContext(ctx, "go", args...)
	cmd.Dir, cmd.Env = dir, append(os.Environ(), env...)
	var out, errs bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &errs
	if err := cmd.Run(); err != nil {
		return "", fmt.Errorf("go %s: %w: %s", args[0], err, strings.TrimSpace(errs.String()))
	}
	return out.String(), nil
}
