// SPDX-License-Identifier: Apache-2.0

package demo

import (
	"fmt"
	"io"
	"path/filepath"

	"github.com/warren-mesh/warren/tests/netns"
)

// Look is a way to look further: a whole command.
type Look struct{ What, Command string }

// Further returns what a user may want to see next.
func Further(m *netns.Mesh, o Options) []Look {
	n := o.Command
	shop := filepath.Join(o.Bin, "shop")
	log := m.Nodes()[0].System.Ztunnel.Log
	return []Look{
		{"nodes, pods, addresses, what is captured", n + " status"},
		{"an agent's debug endpoint: this node's pods, captured or why not", n + " get warren-node-a http://localhost:15000/debug/pods"},
		{"the kernel programs: what is attached, what each counted", n + " get warren-node-b http://localhost:15000/debug/bpf"},
		{"a ztunnel's metrics", n + " get warren-ztunnel-a http://localhost:15020/metrics"},
		{"all a ztunnel knows: workloads, services, policies, certificates", n + " get warren-ztunnel-b http://localhost:15000/config_dump"},
		{"the bytes on the wire between the nodes, for three seconds", n + " wire -for 3s"},
		{"the access log, as it grows", "tail -n 20 -f " + log},
		{"a shell in a pod", n + " exec shop/web -- sh"},
		{"a purchase by the client outside, refused", n + " exec legacy -- " + shop + " buy -card " + legacyCard + " " + shopURL},
		{"the objects, ordinary YAML, which may be edited while everything runs", "ls " + m.Manifests()},
	}
}

// Print prints the commands, each below what it is for.
func Print(out io.Writer, looks []Look) {
	fmt.Fprint(out, "\nIt stays up; the shopper goes on buying, once a second. Look further:\n\n")
	for _, l := range looks {
		fmt.Fprintf(out, "  # %s\n  %s\n", l.What, l.Command)
	}
}

// PrintStop prints how to stop it.
func PrintStop(out io.Writer, command string) {
	fmt.Fprintf(out, "\nStop it with:\n\n  %s\n", command)
}
