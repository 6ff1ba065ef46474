// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"fmt"
	"net/netip"
	"testing"
)

// TestIdentities talks as two service accounts, over both distances: the server's ztunnel names each client by its own
// identity, in access log and metrics, and so does the client's ztunnel the server.
func TestIdentities(t *testing.T) {
	m := Shared(t)
	nodes := m.Nodes()
	ns := m.Namespace(t, "identity", Enrolled())
	pods := ns.Deploy(App{Name: "client", Node: nodes[0]}, App{Name: "other", Node: nodes[0]}, App{Name: "near", Node: nodes[0]}, App{Name: "far", Node: nodes[1]})
	for _, client := range pods[:2] {
		for _, server := range pods[2:] {
			t.Run(client.App+" to "+server.App, func(t *testing.T) {
				source, destination := m.Witness(t, client.Node), m.Witness(t, server.Node)
				a := client.In(t).Talk("tcp6", server.Addr("tcp6", EchoPort).String(), "x")
				if !a.OK() {
					t.Fatalf("%+v", a)
				}
				ids := []string{"src.identity=" + client.Identity(), "dst.identity=" + server.Identity()}
				reason := map[bool]string{true: "SAME_NODE", false: "TUNNEL"}[client.Node == server.Node]
				source.Ended("source", reason, append(ids, "src.addr="+a.Local)...)
				to := server.Addr("tcp6", EchoPort)
				if reason == "TUNNEL" {
					destination.Ended("destination", reason, append(ids, fmt.Sprintf("dst.hbone_addr=%s", to))...)
				} else {
					destination.Ended("destination", reason, append(ids, fmt.Sprintf("dst.addr=%s", to))...)
				}
				labels := []string{
					fmt.Sprintf("source_principal=%q", client.Identity()), fmt.Sprintf("destination_principal=%q", server.Identity()),
					`connection_security_policy="mutual_tls"`,
				}
				for reporter, e := range map[string]*Evidence{"source": source, "destination": destination} {
					if n := Metric(e.Metrics(), "istio_tcp_connections_opened_total", append(labels, fmt.Sprintf("reporter=%q", reporter))...); n != 1 {
						t.Errorf("metric of reporter %s for %v: %v, want 1", reporter, labels, n)
					}
				}
			})
		}
	}
}

// TestPodsNeverShareATunnel counts TLS connections on the wire: pods of one service account have one each.
func TestPodsNeverShareATunnel(t *testing.T) {
	m := Shared(t)
	nodes := m.Nodes()
	ns := m.Namespace(t, "twins", Enrolled())
	pods := ns.Deploy(App{Name: "twin", Node: nodes[0], Replicas: 2}, App{Name: "far", Node: nodes[1]})
	twins, far := pods[:2], pods[2]
	wire, e := m.Wire(t), m.Witness(t, far.Node)
	target := "hold://" + far.Addr("tcp4", EchoPort).String()
	var loads []*Load
	for range 3 { // in turns, each held open: whoever comes later finds tunnels that could take it
		for _, p := range twins {
			loads = append(loads, p.Load("-every", "50ms", target))
			Eventually(t, told, "one more connection lives", func() string {
				if n := living(far); n < len(loads) {
					return fmt.Sprintf("%d of %d", n, len(loads))
				}
				return ""
			})
		}
	}
	for _, l := range loads {
		if a := l.Stop(); a.Failed > 0 {
			t.Errorf("%+v", a)
		}
	}
	wire.Stop()
	for _, p := range twins {
		tunnels := map[netip.AddrPort]bool{}
		for _, f := range wire.Between(p.IPv4, far.IPv4) {
			if f.Source.Addr() == p.IPv4 {
				tunnels[f.Source] = true
			}
		}
		if len(tunnels) != 1 {
			t.Errorf("%s has the tunnels %v, want one of its own", p, tunnels)
		}
		for tunnel := range tunnels {
			Eventually(t, told, "three connections by the tunnel from "+tunnel.String(), func() string {
				lines := e.Lines("src.addr="+tunnel.String(), "src.workload="+p.Name, "src.identity="+p.Identity(), "reason=TUNNEL")
				if len(lines) != 3 {
					return fmt.Sprint(len(lines))
				}
				return ""
			})
		}
	}
}

// living counts the connections to a pod's echo server that have not ended.
func living(p *Pod) (n int) {
	for _, h := range p.Heard() {
		if h.Port == EchoPort && h.Line != "" && h.End == "" {
			n++
		}
	}
	return n
}
