// SPDX-License-Identifier: Apache-2.0

package proxy

import (
	"fmt"
	"io"
	"net"
	"net/netip"
	"testing"
	"time"

	"github.com/warren-mesh/warren/mesh"
)

// TestUsageForgets: what went is told for as long as asked for, and forgotten after a minute.
func TestUsageForgets(t *testing.T) {
	now := time.Unix(1e9, 0)
	var u usage
	u.note(now, Talker{Name: "a"}, Traffic{Sent: 100, Opened: 1})
	for _, tt := range []struct {
		later  time.Duration
		window time.Duration
		sent   uint64
	}{
		{0, 10 * time.Second, 100}, {10 * time.Second, 10 * time.Second, 100}, {15 * time.Second, 10 * time.Second, 0},
		{15 * time.Second, time.Minute, 100}, {time.Minute, time.Minute, 100}, {65 * time.Second, time.Minute, 0}, {24 * time.Hour, time.Minute, 0},
	} {
		if sum, _ := u.lately(now.Add(tt.later), tt.window); sum.Sent != tt.sent {
			t.Errorf("%v later, of the last %v: %d bytes, want %d", tt.later, tt.window, sum.Sent, tt.sent)
		}
	}
	if u.total.Sent != 100 {
		t.Errorf("total %d", u.total.Sent)
	}
}

// TestManyTalkers: a pod that talks to ever so many has bounded memory, its sums stay right, and whoever has most
// traffic is found among them.
func TestManyTalkers(t *testing.T) {
	now := time.Unix(1e9, 0)
	var u usage
	var want Traffic
	for i := range 100_000 {
		one := Traffic{Sent: 10, Received: 1, Opened: 1}
		u.note(now, Talker{Direction: outbound, Name: fmt.Sprint("10.0.0.", i)}, one)
		want.add(one)
		if i%1000 == 999 {
			heavy := Traffic{Sent: 1 << 20}
			u.note(now, Talker{Direction: outbound, Name: "heavy"}, heavy)
			want.add(heavy)
			now = now.Add(100 * time.Millisecond)
		}
	}
	if n := len(u.talkers); n > podTalkers+1 {
		t.Errorf("%d peers are kept, want at most %d", n, podTalkers+1)
	}
	sum, peers := u.lately(now, LongestWindow)
	if sum != want {
		t.Errorf("sum %+v, want %+v", sum, want)
	}
	if peers[0].Name != "heavy" || peers[0].Sent != 100<<20 {
		t.Errorf("first is %+v", peers[0])
	}
}

// answered says something to an echo and stays connected.
func answered(t *testing.T, c *net.TCPConn, say string) {
	t.Helper()
	if _, err := io.WriteString(c, say); err != nil {
		t.Fatal(err)
	}
	if _, err := io.ReadFull(c, make([]byte, len(say))); err != nil {
		t.Fatal(err)
	}
}

// TestTop: pods are found by what they carry, while they carry it, and with whom.
func TestTop(t *testing.T) {
	m, client, _ := pair(t)
	m.echo(serverPort)
	answered(t, client.dial(serverPort), "hello")
	for n, peer := range map[*node]Talker{m.near: {outbound, "shop", "web"}, m.far: {inbound, "shop", "client"}} {
		var covered time.Duration
		var top []PodTraffic
		want := Traffic{Sent: 5, Received: 5, Opened: 1}
		eventually(t, "what went", func() bool { // counted a moment after it arrived
			covered, top = n.proxy.Top(10*time.Second, 10)
			return len(top) == 1 && top[0].Traffic == want
		})
		if top[0].Connections != 1 || len(top[0].Peers) != 1 || top[0].Peers[0] != (PeerTraffic{peer, want}) {
			t.Errorf("%s: got %+v, want peer %+v", n.name, top, peer)
		}
		if covered < 10*time.Second || covered > 15*time.Second {
			t.Errorf("%s: covers %v", n.name, covered)
		}
	}
	if _, top := m.near.proxy.Top(time.Minute, 0); len(top) != 0 {
		t.Errorf("none asked for, got %v", top)
	}
}

// TestUse: a pod is charged with what it takes and with the limits it meets.
func TestUse(t *testing.T) {
	m, client, _ := pair(t, func(c *Config) { c.PodConnections = 1 })
	m.echo(serverPort)
	answered(t, client.dial(serverPort), "hello")
	wantReset(t, "the second", client.dial(serverPort))
	eventually(t, "the second to be over", func() bool {
		u := m.near.proxy.use()[0]
		return u.Outbound == 1 && u.Received == 5
	})
	u := m.near.proxy.use()[0]
	if u.Name != (mesh.Name{Namespace: "shop", Name: "client"}) || u.OpenedOutbound != 2 || u.Refused != 1 || u.Sent != 5 || u.Received != 5 {
		t.Errorf("client: %+v", u)
	}
	if u := m.far.proxy.use()[0]; u.Inbound != 1 || u.Tunnels != 1 || u.OpenedInbound != 1 {
		t.Errorf("server: %+v", u)
	}
}

func TestTalker(t *testing.T) {
	web := &mesh.Workload{Namespace: "shop", Name: "web-1", WorkloadName: "web"}
	id := mesh.Identity{TrustDomain: "d", Namespace: "shop", ServiceAccount: "web"}
	addr := netip.MustParseAddrPort("10.1.0.1:4000")
	for want, f := range map[Talker]facts{
		{outbound, "", "web.shop"}:  {direction: outbound, service: &mesh.Service{Hostname: "web.shop"}, destination: web, dst: addr},
		{outbound, "shop", "web"}:   {direction: outbound, destination: web, destinationID: id, dst: addr},
		{outbound, "", "192.0.2.9"}: {direction: outbound, dst: addr, target: netip.MustParseAddrPort("192.0.2.9:80")},
		{inbound, "shop", "web"}:    {direction: inbound, source: web, src: addr, service: &mesh.Service{Hostname: "own"}},
		{inbound, "shop", "sa/web"}: {direction: inbound, sourceID: id, src: addr},
		{inbound, "", "10.1.0.1"}:   {direction: inbound, src: addr},
	} {
		if got := f.talker(); got != want {
			t.Errorf("got %+v, want %+v", got, want)
		}
	}
}

func BenchmarkNote(b *testing.B) {
	var u usage
	now, t := time.Unix(1e9, 0), Talker{outbound, "shop", "web"}
	b.ReportAllocs()
	for b.Loop() {
		u.note(now, t, Traffic{Sent: 1})
	}
}

// BenchmarkNoteStrangers is a pod that scans a network.
func BenchmarkNoteStrangers(b *testing.B) {
	var u usage
	now, names := time.Unix(1e9, 0), make([]Talker, 10_000)
	for i := range names {
		names[i] = Talker{outbound, "", fmt.Sprint(i)}
	}
	i := 0
	for b.Loop() {
		u.note(now, names[i%len(names)], Traffic{Failed: 1})
		i++
	}
}
