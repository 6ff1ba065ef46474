// SPDX-License-Identifier: Apache-2.0

package install

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
)

// source is a checkout of Warren.
type source struct {
	dir      string
	revision string // git's, with -dirty; empty outside of a repository
	version  string
}

var moduleLine = regexp.MustCompile(`(?m)^module github\.com/warren-mesh/warren$`)

// findSource looks for Warren's checkout at dir, the working directory when that is empty, and above it.
func findSource(ctx context.Context, dir string) (source, error) {
	start, err := filepath.Abs(dir)
	if err != nil {
		return source{}, fmt.Errorf("find Warren's source: %w", err)
	}
	for at := start; ; at = filepath.Dir(at) {
		b, err := os.ReadFile(filepath.Join(at, "go.mod"))
		if err == nil && moduleLine.Match(b) {
			return describe(ctx, at), nil
		}
		if at == filepath.Dir(at) {
			return source{}, fmt.Errorf("find Warren's source: none at %s or above it (stand in a checkout, or name one)", start)
		}
	}
}

func describe(ctx context.Context, dir string) source {
	git := func(args ...string) string {
		b, err := exec.CommandContext(ctx, "git", append([]string{"-C", dir}, args...)...).Output()
		if err != nil {
			return ""
		}
		return strings.TrimSpace(string(b))
	}
	s := source{dir: dir, revision: git("describe", "--always", "--abbrev=40", "--dirty", "--exclude=*")}
	if s.version = git("describe", "--tags", "--always", "--dirty"); s.version == "" {
		s.version = "devel"
	}
	return s
}
