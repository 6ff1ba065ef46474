// SPDX-License-Identifier: Apache-2.0

package cluster

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
)

// seccomp finds libseccomp for the linker: the system's, or Debian's development package unpacked beside the build.
func (b *builder) seccomp(work string) ([]string, error) {
	if hasLibrary(b.ctx, "libseccomp") {
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

func hasLibrary(ctx context.Context, name string) bool {
	return exec.CommandContext(ctx, "pkg-config", "--exists", name).Run() == nil
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
