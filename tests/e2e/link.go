// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"fmt"
	"net/netip"
	"testing"

	"github.com/warren-mesh/warren/tests/packets"
)

// Wire records what goes between the nodes, every segment once, until Stop or the end of the test: from the pods, or of
// everybody. Other tests' packets are in it, too.
func (m *Mesh) Wire(t testing.TB, from ...*Pod) *packets.Capture {
	return m.Links(t, "control", from...)
}

// Links records what comes in by any link of a node: from its pods, from other nodes, and from itself. What is routed is
// seen at each link it comes in by.
func (m *Mesh) Links(t testing.TB, node string, from ...*Pod) *packets.Capture {
	t.Helper()
	pid, err := m.PID(node)
	if err != nil {
		t.Fatal(err)
	}
	var sources []netip.Addr
	for _, p := range from {
		sources = append(sources, p.IPv4, p.IPv6)
	}
	c, err := packets.In(fmt.Sprintf("/proc/%d/ns/net", pid), sources...)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(c.Stop)
	return c
}
