// SPDX-License-Identifier: Apache-2.0

package demo

import (
	"path/filepath"

	"github.com/warren-mesh/warren/tests/demo"
	"github.com/warren-mesh/warren/tests/netns"
)

// Further returns what a user may want to see next.
func Further(m *netns.Mesh, o Options) []demo.Look {
	n := o.Command
	shop := filepath.Join(o.Bin, "shop")
	log := m.Nodes()[0].System.Ztunnel.Log
	return []demo.Look{
		{What: "nodes, pods, addresses, what is captured", Command: n + " status"},
		{What: "an agent's debug endpoint: this node's pods, captured or why not", Command: n + " get warren-node-a http://localhost:15000/debug/pods"},
		{What: "the kernel programs: what is attached, what each counted", Command: n + " get warren-node-b http://localhost:15000/debug/bpf"},
		{What: "a ztunnel's metrics", Command: n + " get warren-ztunnel-a http://localhost:15020/metrics"},
		{What: "all a ztunnel knows: workloads, services, policies, certificates", Command: n + " get warren-ztunnel-b http://localhost:15000/config_dump"},
		{What: "the bytes on the wire between the nodes, for three seconds", Command: n + " wire -for 3s"},
		{What: "the access log, as it grows", Command: "tail -n 20 -f " + log},
		{What: "a shell in a pod", Command: n + " exec shop/web -- sh"},
		{What: "a purchase by the client outside, refused", Command: n + " exec legacy -- " + shop + " buy -card " + demo.LegacyCard + " " + demo.ShopURL},
		{What: "the objects, ordinary YAML, which may be edited while everything runs", Command: "ls " + m.Manifests()},
	}
}
