// SPDX-License-Identifier: Apache-2.0

package proxy

import (
	"net"
	"testing"
	"time"
)

// TestHeldLeavesNewConnectionsToTheOther: until TakeOver the other ztunnel, played by the test, gets each connection; from
// then on this one serves.
func TestHeldLeavesNewConnectionsToTheOther(t *testing.T) {
	m := newMesh(t, func(c *Config) { c.Held = true })
	client := m.pod(m.near, "client", "10.1.0.1")
	m.pod(m.far, "server", "10.2.0.1")
	m.echo("10.2.0.1:8080")
	theOther := client.outbound.(*net.TCPListener)
	_ = theOther.SetDeadline(time.Now().Add(5 * time.Second))
	for range 20 {
		before := client.dial("10.2.0.1:8080")
		theirs, err := theOther.Accept()
		if err != nil {
			t.Fatal(err)
		}
		if theirs.RemoteAddr().String() != before.LocalAddr().String() {
			t.Errorf("accepted %v, want the connection just opened, %v", theirs.RemoteAddr(), before.LocalAddr())
		}
		theirs.Close()
	}
	_ = theOther.SetDeadline(time.Time{})
	m.near.proxy.TakeOver()
	m.far.proxy.TakeOver()
	roundTrip(t, client.dial("10.2.0.1:8080"), "after")
}
