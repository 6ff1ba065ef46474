// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"encoding/json"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/warren-mesh/warren/tests/e2e/testapp/answer"
	"github.com/warren-mesh/warren/tests/packets"
)

// freshPods is how many pods' first connections are looked at.
const freshPods = 50

// TestFirstConnection starts pods that connect in their first millisecond, once, and wants every one of these connections to
// have gone through the mesh: by ztunnel's log, and by no packet anywhere on the node that says otherwise.
func TestFirstConnection(t *testing.T) {
	m := Shared(t)
	ns := m.Namespace(t, "first", Enrolled())
	n := m.Nodes()
	servers := ns.Deploy(App{Name: "near", Node: n[0]}, App{Name: "far", Node: n[1]})
	marker := "marker-" + ns.Name
	links, e := m.Links(t, n[0]), m.Witness(t, n[0])
	var apps []App
	for _, s := range servers {
		apps = append(apps, App{Name: "to-" + s.App, Account: "fresh", Node: n[0], Replicas: freshPods / len(servers),
			Args: []string{"talk", "-stay", "-timeout", "20s", s.Addr("tcp4", EchoPort).String(), marker}})
	}
	pods := ns.Deploy(apps...)
	talks := make([]answer.Talk, len(pods))
	for i, p := range pods {
		talks[i] = p.firstTalk()
	}
	links.Stop()
	if err := links.Err(); err != nil {
		t.Error(err)
	}
	for i, p := range pods {
		server, reason := servers[0], "SAME_NODE"
		if p.App == "to-far" {
			server, reason = servers[1], "TUNNEL"
		}
		a := talks[i]
		if !a.OK() || a.Pod != server.Name || a.Peer != a.Local {
			t.Errorf("%s: %+v", p, a)
			continue
		}
		e.Line("src.addr="+a.Local, "src.workload="+p.Name, "direction=outbound", "reason="+reason,
			"dst.identity="+server.Identity())
		for _, f := range outsideTunnel(links, p.IPv4, server.IPv4) {
			t.Errorf("%s: a connection outside the mesh: %s", p, f)
		}
	}
	if found := links.Contains([]byte(marker)); len(found) > 0 {
		t.Errorf("plaintext on the links of the node: %v", found)
	}
}

// firstTalk is what a pod whose application is talk says of its one conversation, once it has had it.
func (p *Pod) firstTalk() (a answer.Talk) {
	p.t.Helper()
	Eventually(p.t, 30*time.Second, p.Name+" has talked", func() string {
		if err := json.Unmarshal([]byte(p.Logs()), &a); err != nil {
			return err.Error()
		}
		return ""
	})
	return a
}

// outsideTunnel are the connections between two pods that are not to the HBONE port.
func outsideTunnel(c *packets.Capture, a, b netip.Addr) []packets.Flow {
	return slices.DeleteFunc(c.Between(a, b), func(f packets.Flow) bool {
		return f.Source.Port() == hbonePort || f.Destination.Port() == hbonePort
	})
}

// TestNewServerUnderFire has a captured client connect all the time to addresses that pods are about to get. From the moment
// that there is such a pod, before it is captured and after, no byte may go to it in plaintext. Its node's ztunnel is away at
// first: so long the pod runs, and whoever connects knows of it, and that it is not captured.
func TestNewServerUnderFire(t *testing.T) {
	const port, servers, addresses = 7123, 4, 12
	m := Alone(t) // others' pods would get the addresses
	ns := m.Namespace(t, "fire", Enrolled())
	n := m.Nodes()
	pods := ns.Deploy(App{Name: "client", Node: n[0]}, App{Name: "scout", Node: n[1]})
	client, scout := pods[0], pods[1]
	marker := "marker-" + ns.Name
	// Addresses are given out in order.
	fire := []string{"-every", "1ms", "-workers", "240", "-timeout", "10s", "-line", marker}
	next4, next6 := scout.IPv4, scout.IPv6
	for range addresses {
		next4, next6 = next4.Next(), next6.Next()
		for _, a := range []netip.Addr{next4, next6} {
			fire = append(fire, "echo://"+netip.AddrPortFrom(a, port).String())
		}
	}
	wire, source, e := m.Wire(t), m.Witness(t, n[0]), m.Witness(t, n[1])
	defer func() { // whatever else is wrong
		wire.Stop()
		if found := wire.Contains([]byte(marker)); len(found) > 0 {
			t.Errorf("plaintext on the wire: %v", found)
		}
	}()
	back := m.Ztunnel(t, n[1]).down()
	load := client.Load(fire...)
	server := App{Name: "server", Node: n[1], Replicas: servers, Serve: []string{fmt.Sprintf("echo=:%d", port)}}
	ns.Create(server)
	early := ns.addressed(t, server)
	hit := slices.DeleteFunc(slices.Clone(early), func(p *Pod) bool { return !between(scout.IPv4, p.IPv4, next4) })
	for _, p := range hit {
		source.Line("dst.workload="+p.Name, "src.workload="+client.Name, "direction=outbound", "reason=DESTINATION_NOT_CAPTURED")
		if h := p.HeardLine(marker); h != nil {
			t.Errorf("%s, which is not captured yet, heard %+v", p, h)
		}
	}
	back()
	fresh := ns.Wait(server)
	for _, p := range hit {
		Eventually(t, told, p.Name+" is reached", func() string {
			if p.HeardLine(marker) == nil {
				return "it has heard nothing"
			}
			return ""
		})
	}
	l := load.Stop()
	wire.Stop()
	t.Logf("%d of %d servers were under fire from their first moment: %d conversations, errors %v", len(hit), servers, l.OK, l.Errors)
	if len(hit) == 0 {
		t.Fatal("no server got one of the addresses")
	}
	if err := wire.Err(); err != nil {
		t.Error(err)
	}
	for _, p := range fresh {
		for _, pair := range [][2]netip.Addr{{client.IPv4, p.IPv4}, {client.IPv6, p.IPv6}} {
			for _, f := range outsideTunnel(wire, pair[0], pair[1]) {
				if b := wire.Bytes(f); len(b) > 0 {
					t.Errorf("%s: %d bytes outside the tunnel", f, len(b))
				}
			}
		}
		checkOnlyTunnels(t, e, p, client)
	}
}

// addressed waits until all the app's pods have an address. They may be neither ready nor captured.
func (n *Namespace) addressed(t *testing.T, a App) (pods []*Pod) {
	t.Helper()
	Eventually(t, deployWithin, "the pods of "+a.Name+" have addresses", func() string {
		pods = n.Pods("app=" + a.Name)
		if len(pods) != int(a.replicas()) {
			return fmt.Sprintf("there are %d, want %d", len(pods), a.replicas())
		}
		for _, p := range pods {
			if !p.IPv4.IsValid() {
				return p.Name + " has none"
			}
		}
		return ""
	})
	return pods
}

func between(low, a, high netip.Addr) bool { return low.Less(a) && !high.Less(a) }

// checkOnlyTunnels wants the server's node to have written that whatever was delivered to the server had come by a tunnel with
// the client's identity.
func checkOnlyTunnels(t *testing.T, e *Evidence, server, client *Pod) {
	t.Helper()
	lines := e.Lines("dst.workload="+server.Name, "direction=inbound")
	if len(lines) == 0 {
		t.Errorf("the log says nothing of %s", server)
	}
	for _, line := range lines {
		if !strings.Contains(line, " src.identity="+client.Identity()+" ") && !strings.Contains(line, " bytes_recv=0 ") {
			t.Errorf("delivered without the client's identity: %s", line)
		}
	}
}
