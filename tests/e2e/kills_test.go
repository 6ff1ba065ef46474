// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"k8s.io/apimachinery/pkg/util/rand"

	"github.com/warren-mesh/warren/tests/e2e/testapp/answer"
	"github.com/warren-mesh/warren/tests/packets"
)

const (
	// killsInARow are as many as a supervisor takes before it makes pauses, and more than a kubelet takes.
	killsInARow = 5
	// servesWithin is how long the mesh may take after a kill to serve a connection that is new: a second, and room for a
	// machine that has other things to do. The log has the figure.
	servesWithin = 4 * time.Second
	// unheardOf is how long no new connection may succeed while a part is killed on which none waits: a second, and another
	// for such a machine.
	unheardOf = 2 * time.Second
)

// TestKills kills the process of each part five times in a row with SIGKILL, each time as soon as there is a new one and
// one connection went through.
func TestKills(t *testing.T) {
	b := newBusy(t, Alone(t))
	n1, n2 := b.client.Node, b.far.Node
	for _, tt := range []struct {
		name   string
		part   *Part
		resets int // how many connections end with one of its processes, of those to both servers
	}{
		{"broker of the client's node", b.Broker(t, n1), 0},
		{"broker of the server's node", b.Broker(t, n2), 0},
		{"agent of the client's node", b.Agent(t, n1), 0},
		{"agent of the server's node", b.Agent(t, n2), 0},
		{"control, both replicas", b.Control(t), 0},
		{"ztunnel of the server's node", b.Ztunnel(t, n2), 1},
		{"ztunnel of the client's node", b.Ztunnel(t, n1), 2},
	} {
		t.Run(tt.name, func(t *testing.T) {
			part := tt.part.In(t)
			restarts := part.restarts()
			wire := b.Wire(t)
			load := b.load(t)
			var slowest time.Duration
			kills := make([]time.Time, 0, killsInARow)
			for i := range killsInARow {
				kills = append(kills, time.Now())
				part.killChildren()
				for _, server := range []string{"near:80", "far:80"} {
					if a := b.client.In(t).Talk("tcp4", server, b.marker); !a.OK() {
						t.Errorf("a new connection to %s after kill %d: %+v", server, i+1, a)
					}
				}
				slowest = max(slowest, time.Since(kills[i]))
			}
			part.waitServes()
			fresh, held := load.stop()
			wire.Stop()
			t.Logf("both servers reached %v after a kill at most; %d new connections, longest silence %v", slowest.Round(time.Millisecond), fresh.OK, fresh.Longest.Round(time.Millisecond))
			if slowest > servesWithin {
				t.Errorf("new connections took %v after a kill, want at most %v", slowest, servesWithin)
			}
			if tt.resets == 0 && fresh.Longest > unheardOf {
				t.Errorf("no new connection for %v, want at most %v: none has to wait for this part", fresh.Longest, unheardOf)
			}
			checkHeld(t, held, tt.resets)
			for _, f := range held.Failures {
				if after := f.At.Add(f.Took).Sub(kills[0]); after > servesWithin {
					t.Errorf("an established connection ended only %v after the kill", after)
				}
			}
			for _, f := range fresh.Failures {
				if tt.resets == 0 || f.End != answer.Reset || !underWay(f, kills) {
					t.Errorf("a connection that was new at %s failed: %+v (killed at %v)", f.At.Format(time.StampMicro), f, kills)
				}
			}
			b.checkWire(t, wire)
			if now := part.restarts(); !maps.Equal(now, restarts) {
				t.Errorf("the kubelet restarted containers: %v, before %v", now, restarts)
			}
		})
	}
}

// underWay says whether a request had begun when one of the kills happened, and ended with it.
func underWay(f answer.Failure, kills []time.Time) bool {
	return slices.ContainsFunc(kills, func(k time.Time) bool { return f.At.Before(k.Add(killing)) && f.At.Add(f.Took).After(k) })
}

// killing is how long the kernel may take to end a process.
const killing = 100 * time.Millisecond

func checkHeld(t *testing.T, held answer.Load, lost int) {
	t.Helper()
	if held.OK == 0 {
		t.Error("no established connection was heard of")
	}
	if held.Lost != lost {
		t.Errorf("%d established connections ended, want %d: %+v", held.Lost, lost, held.Failures)
	}
	for _, f := range held.Failures {
		if f.End != answer.Reset {
			t.Errorf("an established connection ended otherwise than by a reset: %+v", f)
		}
	}
}

// busy is traffic through the mesh: a client on the first node, a server beside it and one on the other node.
type busy struct {
	*Mesh
	ns                *Namespace
	client, near, far *Pod
	marker            string // in everything that is said
}

func newBusy(t *testing.T, m *Mesh) *busy {
	t.Helper()
	ns := m.Namespace(t, "busy", Enrolled())
	n := m.Nodes()
	for _, name := range []string{"near", "far"} {
		ns.Service(Service{Name: name})
	}
	pods := ns.Deploy(App{Name: "client", Node: n[0]}, App{Name: "near", Node: n[0]}, App{Name: "far", Node: n[1]})
	for _, network := range []string{"tcp4", "tcp6"} {
		pods[0].Reaches(network, "near:80")
		pods[0].Reaches(network, "far:80")
	}
	return &busy{m, ns, pods[0], pods[1], pods[2], "marker-" + ns.Name}
}

// busyLoad is new connections all the time, and one to each server that stays.
type busyLoad struct{ fresh, held *Load }

// load begins it, and returns when the connections that stay are there.
func (b *busy) load(t *testing.T) busyLoad {
	t.Helper()
	c := b.client.In(t)
	line := b.marker + "-" + rand.String(5)
	l := busyLoad{
		fresh: c.Load("-line", b.marker, "-workers", "16", "-every", "20ms", "echo://near:80", "echo://far:80"),
		held:  c.Load("-line", line, "-every", "20ms", "hold://near:80", "hold://far:80"),
	}
	for _, server := range []*Pod{b.near, b.far} {
		Eventually(t, 10*time.Second, "a connection to "+server.App+" stands", func() string {
			if server.In(t).HeardLine(line+" 0") == nil {
				return "the server heard nothing of it"
			}
			return ""
		})
	}
	return l
}

func (l busyLoad) stop() (fresh, held answer.Load) { return l.fresh.Stop(), l.held.Stop() }

// checkWire fails if anything readable went between the nodes, or anything but TLS on the HBONE port between the pods of
// the client's node and the server, or what else has these addresses.
func (b *busy) checkWire(t *testing.T, wire *packets.Capture, others ...netip.Addr) {
	t.Helper()
	if err := wire.Err(); err != nil {
		t.Error(err)
	}
	for _, f := range wire.Contains([]byte(b.marker)) {
		if !f.Source.Addr().IsLoopback() { // that machine's own etcd, in which pods' arguments are
			t.Errorf("plaintext on the wire: %v", f)
		}
	}
	tunnels := 0
	var pairs [][2]netip.Addr
	for _, there := range append(others, b.far.IPv4, b.far.IPv6) {
		for _, here := range []netip.Addr{b.client.IPv4, b.client.IPv6, b.near.IPv4, b.near.IPv6} {
			pairs = append(pairs, [2]netip.Addr{here, there})
		}
	}
	for _, pair := range pairs {
		for _, f := range wire.Between(pair[0], pair[1]) {
			if f.Source.Port() != hbonePort && f.Destination.Port() != hbonePort {
				t.Errorf("a connection outside the tunnel: %s", f)
				continue
			}
			n, err := packets.TLSRecords(wire.Bytes(f))
			if err != nil {
				t.Errorf("%s: %v", f, err)
			}
			tunnels += min(n, 1)
		}
	}
	if tunnels < 2 {
		t.Errorf("%d directions of tunnels were seen, want 2 or more", tunnels)
	}
}

// In is the same part in a subtest.
func (p *Part) In(t testing.TB) *Part {
	sub := *p
	sub.t = t
	return &sub
}

// children are the part's working processes, without those that start them.
func (p *Part) children() []int {
	p.t.Helper()
	var pids []int
	for _, x := range p.processes() {
		if !strings.HasPrefix(x.Command, supervisor) {
			pids = append(pids, x.PID)
		}
	}
	return pids
}

// killChildren kills them all, and returns when there are as many again.
func (p *Part) killChildren() {
	p.t.Helper()
	dead := p.children()
	if len(dead) == 0 {
		p.t.Fatalf("no process of %s to kill", p.main)
	}
	for _, pid := range dead {
		if err := syscall.Kill(pid, syscall.SIGKILL); err != nil {
			p.t.Fatal(err)
		}
	}
	Eventually(p.t, 10*time.Second, p.main+" is started again", func() string {
		now := p.children()
		if left := slices.ContainsFunc(now, func(pid int) bool { return slices.Contains(dead, pid) }); left || len(now) != len(dead) {
			return fmt.Sprintf("processes %v, killed %v", now, dead)
		}
		return ""
	})
}

// restarts are how often the kubelet started each pod's container again.
func (p *Part) restarts() map[string]int32 {
	p.t.Helper()
	out := map[string]int32{}
	for _, o := range p.Pods() {
		for _, c := range o.Status.ContainerStatuses {
			if c.Name == p.main {
				out[o.Name] = c.RestartCount
			}
		}
	}
	return out
}

// waitServes waits until nothing is pending in any process of the part: the broker's own readiness is the agent's.
func (p *Part) waitServes() {
	p.t.Helper()
	who := *p
	if p.main == "broker" {
		who.main = "agent"
	}
	for _, x := range who.processes() {
		if strings.HasPrefix(x.Command, supervisor) {
			continue
		}
		Eventually(p.t, 30*time.Second, who.main+" is ready again", func() string {
			_, err := getFrom(p.t.Context(), fmt.Sprintf("/proc/%d/ns/net", x.PID), "http://localhost:15021/healthz/ready")
			if err != nil {
				return err.Error()
			}
			return ""
		})
	}
}
