// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"fmt"
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
