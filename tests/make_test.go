// SPDX-License-Identifier: Apache-2.0

package tests

import (
	"os"
	"os/exec"
	"strings"
	"testing"
)

// recipe is what make would run for a target last.
func recipe(t *testing.T, args ...string) string {
	t.Helper()
	cmd := exec.Command("make", append([]string{"-C", "..", "-n", "--no-print-directory"}, args...)...)
	for _, v := range os.Environ() {
		if !strings.HasPrefix(v, "MAKE") && !strings.HasPrefix(v, "MFLAGS") { // of a make that runs this test
			cmd.Env = append(cmd.Env, v)
		}
	}
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("make -n %v: %v", args, err)
	}
	lines := strings.Split(strings.TrimSpace(string(out)), "\n")
	return lines[len(lines)-1]
}

// TestRootKnowsOfCI: what a user starts, and root runs, has CI=true when the user has it.
func TestRootKnowsOfCI(t *testing.T) {
	for _, target := range []string{"test", "test-cluster", "e2e"} {
		command := recipe(t, target, "SUDO=env -i") // drops the environment, as sudo does
		asRoot, _, found := strings.Cut(command, "} ")
		if !found {
			t.Errorf("make %s passes no variable on: %s", target, command)
			continue
		}
		for _, ci := range []string{"CI=true", ""} {
			cmd := exec.Command("bash", "-euc", asRoot+"} env")
			cmd.Env = []string{"PATH=" + os.Getenv("PATH")}
			if ci != "" {
				cmd.Env = append(cmd.Env, ci)
			}
			out, err := cmd.CombinedOutput()
			if err != nil || strings.Contains(string(out), "CI=") != (ci != "") || !strings.Contains(string(out), ci) {
				t.Errorf("make %s with %q: root has\n%s(%v)", target, ci, out, err)
			}
		}
	}
}

// TestInstallationVariables are passed on as the flags they are.
func TestInstallationVariables(t *testing.T) {
	for _, tt := range []struct {
		args []string
		want string
	}{
		{[]string{"install"}, "install"},
		{[]string{"install", "IMAGE=w:1", "VALUES=a.yaml b.yaml", "TIMEOUT=10m"}, "install --image w:1 --values a.yaml --values b.yaml --timeout 10m"},
		{[]string{"uninstall"}, "uninstall"},
		{[]string{"uninstall", "TIMEOUT=10m", "SKIP_NOT_READY=1"}, "uninstall --skip-not-ready --timeout 10m"},
	} {
		if got := strings.Join(strings.Fields(recipe(t, tt.args...)), " "); got != "build/bin/warren-deploy "+tt.want {
			t.Errorf("make %s runs %q, want %q", strings.Join(tt.args, " "), got, tt.want)
		}
	}
}
