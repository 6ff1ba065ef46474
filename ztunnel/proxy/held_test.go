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

// TestSameNodeAfterTakeOver: as long as the other one accepts too, a witness may arrive there, and connections between pods
// here go by HBONE, which either can take.
func TestSameNodeAfterTakeOver(t *testing.T) {
	m, client, _ := neighbours(t, func(c *Config) { c.Held, c.elsewhere = true, 300*time.Millisecond })
	m.echo(serverPort)
	m.near.proxy.TakeOver()
	roundTrip(t, client.dial(serverPort), "beside")
	m.near.logged(map[string]any{"direction": "outbound", "reason": "SAME_NODE", "dst.hbone_addr": serverPort})
	eventually(t, "the other one to be gone", func() bool { return !m.near.proxy.beside.Load() })
	roundTrip(t, client.dial(serverPort), "alone")
	m.near.logged(map[string]any{"direction": "inbound", "reason": "SAME_NODE", "bytes_recv": 5.0})
}
