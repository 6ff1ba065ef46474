// SPDX-License-Identifier: Apache-2.0

package netns

import (
	"testing"

	"github.com/warren-mesh/warren/tests/testutil"
)

// TestConnectsNeverMeetThemselves lets source ports come from the capture range, as a wider ip_local_port_range does: a
// connect must never get the very port it is sent to, for then it would talk to itself.
func TestConnectsNeverMeetThemselves(t *testing.T) {
	testutil.Privileged(t)
	s := newSpine(t, Options{})
	if err := s.client.sandbox.do(request{Op: "sysctl", Sysctls: map[string]string{"net/ipv4/ip_local_port_range": "60900 61063"}}); err != nil {
		t.Fatal(err)
	}
	for i := range 400 {
		network := []string{"tcp4", "tcp6"}[i%2]
		if _, _, err := talk(t, s.client, network, s.near.Addr(network, 8080).String(), "x"); err != nil {
			t.Fatalf("connection %d: %v", i, err)
		}
	}
}
