// SPDX-License-Identifier: Apache-2.0

package demo

import (
	"context"
	"net/netip"

	"github.com/warren-mesh/warren/tests/packets"
)

// Bed is where the shop runs, with Warren beside it and nothing enrolled yet.
type Bed interface {
	// Nodes are those that pods of the shop run on.
	Nodes() []Node
	// Pods are those of the shop and the client outside.
	Pods() []Pod
	// Exec runs the shop's program in a pod, given as namespace/name, and returns what it printed.
	Exec(ctx context.Context, pod string, args ...string) (string, error)
	// Apply applies objects.
	Apply(ctx context.Context, yaml string) error
	// Published is what the pod's node says of it; "" when nothing.
	Published(ctx context.Context, p Pod) (string, error)
	// Capture begins to keep the packets between the nodes; nil where they can't be seen.
	Capture() *packets.Capture
	// Sources says where what is printed was read.
	Sources() []Source
}

// Node is one with pods of the shop on it.
type Node interface {
	Name() string
	// Log is what its ztunnel wrote so far.
	Log(ctx context.Context) (string, error)
	// Ztunnel and Agent fetch a page that these serve on their localhost.
	Ztunnel(ctx context.Context, url string) (string, error)
	Agent(ctx context.Context, url string) (string, error)
}

// Pod is one of the shop's, or the client outside.
type Pod struct {
	Namespace, Name, Node string
	Addresses             []netip.Addr
}

func (p Pod) String() string { return p.Namespace + "/" + p.Name }

// Source is a kind of line, by what it begins with, and where such lines come from.
type Source struct{ Prefix, From string }

// Look is a way to look further: a whole command.
type Look struct{ What, Command string }

// T is told of what goes wrong: a *testing.T, or a program's own.
type T interface {
	Errorf(format string, args ...any)
	Fatalf(format string, args ...any)
}
