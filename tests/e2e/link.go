// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"fmt"
	"testing"

	"github.com/warren-mesh/warren/tests/packets"
)

// Wire records what goes between the nodes, every segment once, until Stop or the end of the test. Other tests' packets
// are in it, too.
func (m *Mesh) Wire(t testing.TB) *packets.Capture { return m.Links(t, "control") }

// Links records what comes in by any link of a node: from its pods, from other nodes, and from itself. What is routed is
// seen at each link it comes in by.
func (m *Mesh) Links(t testing.TB, node string) *packets.Capture {
	t.Helper()
	pid, err := m.PID(node)
	if err != nil {
		t.Fatal(err)
	}
	c, err := packets.In(fmt.Sprintf("/proc/%d/ns/net", pid))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(c.Stop)
	return c
}
