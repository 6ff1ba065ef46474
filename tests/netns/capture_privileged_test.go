// SPDX-License-Identifier: Apache-2.0

package netns

import (
	"slices"
	"testing"

	"github.com/warren-mesh/warren/tests/packets"
	"github.com/warren-mesh/warren/tests/testutil"
)

// TestCaptureSeesTheWire shows that a capture would find a marker in plaintext: without this, not finding it in
// ciphertext would prove nothing.
func TestCaptureSeesTheWire(t *testing.T) {
	testutil.Privileged(t)
	m := New(t, Options{})
	client, near, far := m.Node("a").Pod("client"), m.Node("a").Pod("near"), m.Node("b").Pod("far")
	echo(t, near, ":8080")
	echo(t, far, ":8080")
	for _, network := range []string{"tcp4", "tcp6"} {
		c := m.Capture()
		if _, _, err := talk(t, client, network, far.Addr(network, 8080).String(), "marker-far"); err != nil {
			t.Fatal(err)
		}
		if _, _, err := talk(t, client, network, near.Addr(network, 8080).String(), "marker-near"); err != nil {
			t.Fatal(err)
		}
		c.Stop()
		if err := c.Err(); err != nil {
			t.Error(err)
		}
		found := c.Contains([]byte("marker-far"))
		if len(found) != 2 || !slices.Contains(found, found[0].Reverse()) {
			t.Errorf("%s: marker found in %v, want both directions of one connection; all flows %v", network, found, c.Flows())
		}
		if found := c.Contains([]byte("marker-near")); len(found) > 0 {
			t.Errorf("%s: traffic inside a node was seen on the wire: %v", network, found)
		}
		for _, f := range found {
			if _, err := packets.TLSRecords(c.Bytes(f)); err == nil {
				t.Errorf("%s: plain text passes as TLS", network)
			}
		}
	}
}
