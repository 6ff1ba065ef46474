// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"bytes"
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"

	"github.com/warren-mesh/warren/tests/e2e/testapp/answer"
	"github.com/warren-mesh/warren/tests/packets"
)

// prison is a captured client with every privilege that lets it try, a pod outside the mesh and a STRICT one on the other
// node, and one beside it that is free to go.
type prison struct {
	*Mesh
	ns                         *Namespace
	prisoner, far, free, there *Pod
}

func newPrison(t *testing.T, m *Mesh) *prison {
	t.Helper()
	nodes := m.Nodes()
	ns, out := m.Namespace(t, "prison", Enrolled()), m.Namespace(t, "outside")
	// What a container gets from the runtime by default, and what a pod's author may ask for.
	tools := func(p *corev1.PodTemplateSpec) {
		p.Spec.Containers[0].SecurityContext = &corev1.SecurityContext{Capabilities: &corev1.Capabilities{Add: []corev1.Capability{"NET_RAW", "NET_ADMIN"}}}
	}
	free, there := App{Name: "free", Node: nodes[0], Change: tools}, App{Name: "there", Node: nodes[1]}
	out.Create(free, there)
	pods := ns.Deploy(App{Name: "prisoner", Node: nodes[0], Change: tools}, App{Name: "far", Node: nodes[1]})
	ns.Strict(true)
	p := &prison{m, ns, pods[0], pods[1], out.Wait(free)[0], out.Wait(there)[0]}
	Eventually(t, told, "STRICT has arrived", func() string {
		if a := p.free.Talk("tcp4", p.far.Addr("tcp4", EchoPort).String(), "x"); !a.IsReset() {
			return fmt.Sprintf("%+v", a)
		}
		return ""
	})
	return p
}

// try runs the verb escape in a pod as a user of the container would.
func (p *prison) try(t *testing.T, pod *Pod, args ...string) []answer.Escape {
	t.Helper()
	out, err := pod.In(t).Exec(append([]string{"escape"}, args...)...)
	var all []answer.Escape
	if err == nil {
		err = json.Unmarshal([]byte(out), &all)
	}
	if err != nil {
		t.Fatalf("%s: %v: %s", pod, err, out)
	}
	return all
}

// TestNoWayAroundByConnect tries every way to connect, as root in a container. Each is carried by the mesh, which the
// ztunnels prove with a line about just this connection, or does not happen.
func TestNoWayAroundByConnect(t *testing.T) {
	p := newPrison(t, Shared(t))
	wire := p.Wire(t, p.prisoner)
	for _, network := range []string{"tcp4", "tcp6"} {
		for _, server := range []*Pod{p.there, p.far} {
			t.Run(network+" to "+server.App, func(t *testing.T) {
				source, destination := p.Witness(t, p.prisoner.Node), p.Witness(t, server.Node)
				line := fmt.Sprintf("marker-%s-%s-%s", p.ns.Name, server.App, network)
				to := server.Addr(network, EchoPort)
				all := p.try(t, p.prisoner, "connect", p.prisoner.Addr(network, 0).Addr().String(), to.String(), line)
				carried := 0
				for _, e := range all {
					if e.Fails {
						if h := server.In(t).HeardLine(e.Line); e.End == answer.EOF || h != nil {
							t.Errorf("%s: it connected: %+v, heard %+v", e.Name, e, h)
						}
						continue
					}
					if e.End != answer.EOF {
						t.Errorf("%s: %+v, want it carried", e.Name, e)
						continue
					}
					carried++
					if server == p.there {
						source.Line("direction=outbound", "src.addr="+e.Local, "dst.addr="+to.String(), "reason=PASSTHROUGH_NOT_ENROLLED")
						continue
					}
					source.Line("direction=outbound", "src.addr="+e.Local, "dst.hbone_addr="+to.String(), "reason=TUNNEL")
				}
				if carried < 10 {
					t.Errorf("%d of %d ways were carried: %+v", carried, len(all), all)
				}
				if server == p.far {
					Eventually(t, told, "as many lines of the server's ztunnel", func() string {
						n := len(destination.Lines("direction=inbound", "src.identity="+p.prisoner.Identity(), "dst.hbone_addr="+to.String(), "reason=TUNNEL"))
						if n < carried {
							return fmt.Sprintf("%d, want %d", n, carried)
						}
						return ""
					})
				}
			})
		}
	}
	wire.Stop()
	t.Run("nothing else left the pod", func(t *testing.T) { p.checkWire(t, wire) })
}

// checkWire looks at everything that went over the wire from the prisoner: each connection to the pod outside is one that
// ztunnel has a line for, and to the STRICT pod there is only TLS.
func (p *prison) checkWire(t *testing.T, wire *packets.Capture) {
	if err := wire.Err(); err != nil {
		t.Error(err)
	}
	log := p.Ztunnel(t, p.prisoner.Node).Log()
	for _, network := range []string{"tcp4", "tcp6"} {
		from, there, far := p.prisoner.Addr(network, 0).Addr(), p.there.Addr(network, EchoPort), p.far.Addr(network, 0).Addr()
		seen := 0
		for _, f := range wire.Flows() {
			switch {
			case f.Destination == there && f.Source.Addr() == from:
				seen++
			case f.Destination.Addr() == there.Addr() && f.Source.Addr() == from:
				t.Errorf("a connection to another port: %s", f)
			}
		}
		if logged := len(accessLines(log, "direction=outbound", "src.workload="+p.prisoner.Name, "dst.addr="+there.String())); seen > logged || seen == 0 {
			t.Errorf("%s: %d connections to the pod outside are on the wire, ztunnel carried %d", network, seen, logged)
		}
		for _, f := range wire.Between(from, far) {
			if f.Source.Port() != hbonePort && f.Destination.Port() != hbonePort {
				t.Errorf("a connection around the tunnel: %s", f)
			} else if _, err := packets.TLSRecords(wire.Bytes(f)); err != nil {
				t.Errorf("%s: %v", f, err)
			}
		}
	}
	for _, f := range wire.Contains([]byte("marker-" + p.ns.Name + "-far")) {
		t.Errorf("plaintext to or from the STRICT pod: %s", f)
	}
}

// TestNoSYNLeavesByPackets sends SYNs that no connect saw. From a pod outside the mesh each is seen on the wire; from one
// within none is, and the guard has counted it.
func TestNoSYNLeavesByPackets(t *testing.T) {
	p := newPrison(t, Shared(t))
	mac, err := p.NodeShell(t.Context(), p.prisoner.Node, "cat", "/sys/class/net/cni0/address")
	if err != nil {
		t.Fatal(err)
	}
	pid, err := p.PID("control")
	if err != nil {
		t.Fatal(err)
	}
	wire, err := packets.TapIn(fmt.Sprintf("/proc/%d/ns/net", pid), p.free.IPv4, p.free.IPv6, p.prisoner.IPv4, p.prisoner.IPv6)
	if err != nil {
		t.Fatal(err)
	}
	defer wire.Close()
	for i, pod := range []*Pod{p.free, p.prisoner} {
		for j, network := range []string{"tcp4", "tcp6"} {
			for k, server := range []*Pod{p.there, p.far} {
				t.Run(fmt.Sprintf("%s, %s to %s", pod.App, network, server.App), func(t *testing.T) {
					e := p.Witness(t, pod.Node)
					var all []answer.Escape
					var seen [][]byte
					reasons := map[string]uint64{}
					last := 0
					for again := 0; ; again++ { // other tests' traffic may have filled the tap before the last frame
						prefix := fmt.Sprintf("%c%c", 'A'+2*i+j, 'P'+k+2*again)
						all = p.try(t, pod, "-next", strings.TrimSpace(mac), "packets", pod.Addr(network, 0).Addr().String(), server.Addr(network, EchoPort).String(), prefix)
						var tags [][]byte
						clear(reasons)
						for _, s := range all {
							if s.Error != "" {
								t.Errorf("%s: %s", s.Name, s.Error)
							}
							tags = append(tags, s.Tag)
							reasons[s.Reason]++
						}
						last = len(all) - 1
						var err error
						if seen, err = wire.Until(10*time.Second, tags[last], tags[:last]...); err == nil {
							break
						}
						if again == 2 {
							t.Fatal(err)
						}
						t.Logf("again: %v", err)
					}
					for _, s := range all[:last] {
						was := slices.ContainsFunc(seen, func(b []byte) bool { return bytes.Equal(b, s.Tag) })
						if was != (pod == p.free) {
							t.Errorf("%s: on the wire: %v", s.Name, was)
						}
					}
					delete(reasons, "")
					for reason, n := range reasons {
						if grown := e.Grown(reason); pod == p.prisoner && grown < n {
							t.Errorf("%s was counted %d times, want %d or more", reason, grown, n)
						}
					}
				})
			}
		}
	}
}

// TestMeshPortsAreNoWayOut dials the mesh's ports: in the own pod, where ztunnel's listeners are, and at other pods.
func TestMeshPortsAreNoWayOut(t *testing.T) {
	m := Shared(t)
	nodes := m.Nodes()
	ns := m.Namespace(t, "ports", Enrolled())
	pods := ns.Deploy(App{Name: "client", Node: nodes[0]}, App{Name: "server", Node: nodes[1]})
	client, server := pods[0], pods[1]
	e := m.Witness(t, client.Node)
	for _, host := range []string{"127.0.0.1", "[::1]", client.IPv4.String(), "[" + client.IPv6.String() + "]"} {
		for _, port := range []int{15001, 15006, 15008} {
			if a := client.End("tcp", fmt.Sprint(host, ":", port), ""); a.End != answer.Denied {
				t.Errorf("%s port %d of its own: %+v, want it denied", host, port, a)
			}
		}
	}
	if n := e.Grown("RESERVED_PORT"); n < 12 {
		t.Errorf("the kernel counted %d of 12 as RESERVED_PORT", n)
	}
	for _, network := range []string{"tcp4", "tcp6"} {
		for _, port := range []uint16{15001, 15006, 15008, 61000} {
			a := client.End(network, server.Addr(network, port).String(), "")
			if !a.IsReset() {
				t.Errorf("port %d of another: %+v, want a reset", port, a)
			}
			e.Ended("source", "RECURSIVE_CALL", By(a.Local, client), fmt.Sprintf("dst.addr=%s", server.Addr(network, port)))
		}
	}
}
