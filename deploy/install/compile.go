// SPDX-License-Identifier: Apache-2.0

package install

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
)

// Programs are the binaries of the image, all in its root directory.
var Programs = []string{"warren-agent", "warren-broker", "warren-cni", "warren-control", "warren-remove", "warren-supervise", "warren-ztunnel", "warrenctl"}

// remover is the one program of this module; it ends an installation from inside the cluster.
const remover = "warren-remove"

// compile builds the programs into dir.
func compile(ctx context.Context, o BuildOptions, s source, dir string) error {
	progress(o.Progress, "compiling %s for linux/%s (with cold caches about three minutes on two cores)", s.version, o.Arch)
	var packages []string
	for _, p := range Programs {
		if p != remover {
			packages = append(packages, "./cmd/"+p)
		}
	}
	if err := goBuild(ctx, s.dir, o.Arch, dir, packages...); err != nil {
		return err
	}
	return goBuild(ctx, filepath.Join(s.dir, "deploy", "install"), o.Arch, dir, "./cmd/"+remover)
}

// goBuild compiles packages of the module at dir statically.
func goBuild(ctx context.Context, dir, arch, output string, packages ...string) error {
	args := append([]string{"build", "-trimpath", "-ldflags=-s -w", "-o", output + string(filepath.Separator)}, packages...)
	cmd := exec.CommandContext(ctx, "go", args...)
	cmd.Dir = dir
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0", "GOOS=linux", "GOARCH="+arch, "GOFLAGS=")
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("go build: %w: %s", err, strings.TrimSpace(string(out)))
	}
	return nil
}
