// SPDX-License-Identifier: Apache-2.0

package proxy

import (
	"context"
	"io"
	"net"
	"net/netip"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/warren-mesh/warren/mesh"
	"github.com/warren-mesh/warren/ztunnel/inpod"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// live opens a connection and shows that it carries.
func live(t *testing.T, p *testPod) *net.TCPConn {
	t.Helper()
	c := p.dial(serverPort)
	alive(t, c)
	return c
}

func alive(t *testing.T, c *net.TCPConn) {
	t.Helper()
	_, _ = io.WriteString(c, "x")
	if _, err := io.ReadFull(c, make([]byte, 1)); err != nil {
		t.Fatalf("the connection does not carry: %v", err)
	}
}

func TestDrain(t *testing.T) {
	t.Run("connections live to their end", func(t *testing.T) {
		for _, side := range []string{"near", "far"} {
			m, client, _ := pair(t)
			m.echo(serverPort)
			c := live(t, client)
			n := map[string]*node{"near": m.near, "far": m.far}[side]
			n.stop()
			eventually(t, "listeners to close", func() bool {
				for _, p := range n.proxy.Pods() {
					if len(p.Listeners) > 0 {
						return false
					}
				}
				return true
			})
			alive(t, c)
			roundTrip(t, c, "to the end")
			select {
			case <-n.ended:
			case <-time.After(3 * time.Second):
				t.Errorf("%s ztunnel does not end with its last connection", side)
			}
			n.logged(map[string]any{"reason": "TUNNEL", "level": "info"})
		}
	})
	t.Run("the deadline resets", func(t *testing.T) {
		m, client, _ := pair(t, func(c *Config) { c.Drain = 100 * time.Millisecond })
		m.echo(serverPort)
		c := live(t, client)
		m.far.stop()
		wantReset(t, "client", c)
		<-m.far.ended
		m.far.logged(map[string]any{"reason": "DRAINED"})
	})
}

func TestPodLeaves(t *testing.T) {
	t.Run("connections live on", func(t *testing.T) {
		m, client, server := pair(t)
		m.echo(serverPort)
		c := live(t, client)
		m.far.sockets.events <- inpod.Event{Pod: server.uid, Draining: true}
		eventually(t, "the pod to leave", func() bool {
			return len(m.far.proxy.Pods()) == 1 && m.far.proxy.Pods()[0].Leaving
		})
		alive(t, c)
		alive(t, live(t, client)) // peers that have not heard of it
		roundTrip(t, c, "to the end")
	})
	t.Run("to the deadline", func(t *testing.T) {
		m, client, server := pair(t, func(c *Config) { c.Drain = 100 * time.Millisecond })
		m.echo(serverPort)
		c := live(t, client)
		m.far.proxy.Delete(server.uid)
		wantReset(t, "client", c)
		m.far.logged(map[string]any{"reason": "DRAINED"})
		eventually(t, "the broker to hear", func() bool {
			m.far.sockets.mu.Lock()
			defer m.far.sockets.mu.Unlock()
			return m.far.sockets.drained[server.uid]
		})
		eventually(t, "the pod and its key to go", func() bool {
			return len(m.far.proxy.Pods()) == 0 && len(m.far.ids.Certificates()) == 0
		})
	})
	t.Run("and comes back", func(t *testing.T) {
		m, client, server := pair(t, func(c *Config) { c.Drain = 200 * time.Millisecond })
		m.echo(serverPort)
		c := live(t, client)
		m.far.proxy.Delete(server.uid)
		m.far.proxy.Add(server.uid, "shop", "web", "web")
		time.Sleep(300 * time.Millisecond) // beyond the deadline that must not strike
		alive(t, c)
	})
	t.Run("to the end, and comes back", func(t *testing.T) {
		m, client, server := pair(t, func(c *Config) { c.Drain = 50 * time.Millisecond })
		m.echo(serverPort)
		c := live(t, client)
		m.far.proxy.Delete(server.uid)
		wantReset(t, "client", c)
		eventually(t, "the pod to go", func() bool { return len(m.far.proxy.Pods()) == 0 })
		asked := make(chan string, 1)
		m.far.sockets.reopen = func(pod string) { asked <- pod }
		m.far.proxy.Add(server.uid, "shop", "web", "web") // the broker never heard of it
		select {
		case pod := <-asked:
			if pod != server.uid {
				t.Errorf("asked for the listeners of %s", pod)
			}
		case <-time.After(5 * time.Second):
			t.Fatal("the broker is not asked for the listeners")
		}
		tunnels := m.net.listen(t, netip.MustParseAddrPort(serverAddr+":15008"))
		m.far.proxy.listen(server.uid, inpod.HBONE, podListener{tunnels, m.net, false})
		alive(t, live(t, client))
	})
	t.Run("by the broker's word and comes back", func(t *testing.T) {
		m, client, server := pair(t, func(c *Config) { c.Drain = 50 * time.Millisecond })
		m.echo(serverPort)
		wantReset(t, "client", func() net.Conn {
			c := live(t, client)
			m.far.sockets.events <- inpod.Event{Pod: server.uid, Draining: true}
			return c
		}())
		eventually(t, "its key to go", func() bool { return len(m.far.ids.Certificates()) == 0 })
		// ZDS never said that it left, and says nothing when it is captured again.
		tunnels := m.net.listen(t, netip.MustParseAddrPort(serverAddr+":15008"))
		m.far.proxy.listen(server.uid, inpod.HBONE, podListener{tunnels, m.net, false})
		alive(t, live(t, client))
	})
	t.Run("dies", func(t *testing.T) {
		m, client, server := pair(t)
		m.echo(serverPort)
		c := live(t, client)
		m.far.sockets.events <- inpod.Event{Pod: server.uid, Gone: true}
		wantReset(t, "client", c)
		eventually(t, "its key to go", func() bool { return len(m.far.ids.Certificates()) == 0 })
	})
}

// TestStaysAtTheLastMoment: a pod that is announced again when its time to leave is just over is not settled.
func TestStaysAtTheLastMoment(t *testing.T) {
	m, client, server := pair(t)
	m.echo(serverPort)
	p := m.far.proxy
	pd := p.find(server.uid)
	leaving, stay := context.WithCancel(t.Context())
	pd.mu.Lock()
	pd.leaving = stay
	pd.mu.Unlock()
	p.Add(server.uid, "shop", "web", "web")
	if p.settle(leaving, pd, errLeft) {
		t.Error("a pod that stays was settled")
	}
	alive(t, live(t, client))
}

func TestKeysLiveWithTheirPods(t *testing.T) {
	m := newMesh(t)
	same := func(w *mesh.Workload) { w.ServiceAccount = "shared" }
	m.pod(m.near, "a", "10.1.0.11", same)
	m.pod(m.near, "b", "10.1.0.12", same)
	m.near.sockets.events <- inpod.Event{Pod: "uid-a", Gone: true}
	eventually(t, "the pod to go", func() bool { return len(m.near.proxy.Pods()[0].Listeners) == 0 })
	if got := m.near.ids.Certificates(); len(got) != 1 {
		t.Errorf("with one of two pods gone: %d certificates, want 1", len(got))
	}
	m.near.sockets.events <- inpod.Event{Pod: "uid-b", Gone: true}
	eventually(t, "the key to go", func() bool { return len(m.near.ids.Certificates()) == 0 })
}

func TestServedOnlyWhenAnnounced(t *testing.T) {
	m, client, _ := pair(t)
	m.echo(serverPort)
	m.far.proxy.settle(t.Context(), m.far.proxy.find("uid-web"), errLeft)
	m.far.proxy.Delete("uid-web")
	tunnels := m.net.listen(t, netip.MustParseAddrPort(serverAddr+":15008"))
	m.far.proxy.listen("uid-web", inpod.HBONE, podListener{tunnels, m.net, false})
	c := client.dial(serverPort)
	eventually(t, "the pod to be pending", func() bool {
		p := m.far.proxy.Pods()
		return len(p) == 1 && !p[0].Known && len(p[0].Listeners) == 1
	})
	m.far.proxy.Add("uid-web", "shop", "web", "web")
	roundTrip(t, c, "waited in the backlog")
}
