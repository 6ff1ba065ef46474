// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"os"
	"strconv"
	"testing"
)

// Warrenctl runs warrenctl on a node, where it finds the debug pages by their sockets in /run/warren. The program is the
// image's own, out of the agent's container.
func (m *Mesh) Warrenctl(t testing.TB, node string, args ...string) (string, error) {
	t.Helper()
	agent := m.Agent(t, node).PIDs()
	if len(agent) == 0 {
		t.Fatalf("no agent runs on %s", node)
	}
	program, err := os.Open("/proc/" + strconv.Itoa(agent[0]) + "/root/warrenctl")
	if err != nil {
		t.Fatal(err)
	}
	defer program.Close()
	const at = "/tmp/warrenctl"
	if _, err := m.NodeShell(t.Context(), node, "test", "-x", at); err != nil {
		if _, err := m.NodeShellInput(t.Context(), node, program, "sh", "-c", "cat > "+at+".new && chmod +x "+at+".new && mv "+at+".new "+at); err != nil {
			t.Fatal(err)
		}
	}
	return m.NodeShell(t.Context(), node, append([]string{at}, args...)...)
}
