// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// reader is somebody with a terminal in the top of the repository and the cluster's kubeconfig, who has built Warren: who
// types what pages of the documentation have to type.
type reader struct {
	home string
	env  []string
}

// Reader has kubectl and warrenctl in the PATH, the latter of the image that runs, and a home of its own.
func (m *Mesh) Reader(t *testing.T) *reader {
	t.Helper()
	home := t.TempDir()
	kubectl := m.Kubectl(t.Context())
	script := fmt.Sprintf("#!/bin/sh\nexec '%s' \"$@\"\n", strings.Join(kubectl.Args, "' '"))
	if err := os.WriteFile(filepath.Join(home, "kubectl"), []byte(script), 0o755); err != nil {
		t.Fatal(err)
	}
	agent := m.Agent(t, m.Nodes()[0]).PIDs()
	if len(agent) == 0 {
		t.Fatal("no agent runs")
	}
	program, err := os.ReadFile(fmt.Sprintf("/proc/%d/root/warrenctl", agent[0]))
	if err == nil {
		err = os.WriteFile(filepath.Join(home, "warrenctl"), program, 0o755)
	}
	if err != nil {
		t.Fatal(err)
	}
	return &reader{home, append(kubectl.Env, "HOME="+home, "PATH="+home+":"+os.Getenv("PATH"))}
}

// types is a page.Shell.
func (r *reader) types(t *testing.T, script string) (string, error) {
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	// What the reader has built, or written, is not in the tree.
	script = strings.NewReplacer("build/bin/warrenctl", "warrenctl", "-f meshconfig.yaml", "-f $HOME/meshconfig.yaml").Replace(script)
	cmd := exec.CommandContext(ctx, "sh", "-c", script)
	cmd.Dir, cmd.Env, cmd.WaitDelay = "../..", r.env, time.Second
	out, err := cmd.CombinedOutput()
	return string(out), err
}
