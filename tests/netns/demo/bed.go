// SPDX-License-Identifier: Apache-2.0

package demo

import (
	"context"
	"fmt"
	"net/netip"

	"github.com/warren-mesh/warren/tests/demo"
	"github.com/warren-mesh/warren/tests/netns"
	"github.com/warren-mesh/warren/tests/packets"
)

// bed is two nodes of network namespaces.
type bed struct {
	mesh    *netns.Mesh
	program string // the shop's
}

func (b *bed) Nodes() []demo.Node {
	var out []demo.Node
	for _, n := range b.mesh.Nodes() {
		out = append(out, node{n})
	}
	return out
}

func (b *bed) Pods() []demo.Pod {
	var out []demo.Pod
	for _, p := range b.mesh.Pods() {
		if p.Namespace == demo.ShopNamespace || p.Name == "legacy" {
			out = append(out, demo.Pod{Namespace: p.Namespace, Name: p.Name, Node: p.Node.Name, Addresses: []netip.Addr{p.IPv4, p.IPv6}})
		}
	}
	return out
}

func (b *bed) Exec(ctx context.Context, pod string, args ...string) (string, error) {
	return b.mesh.Find(pod).Exec(ctx, b.program, args...)
}

func (b *bed) Apply(_ context.Context, yaml string) error {
	b.mesh.Apply(yaml)
	return nil
}

func (b *bed) Published(_ context.Context, p demo.Pod) (string, error) {
	return b.mesh.Captured(b.mesh.Find(p.String())), nil
}

func (b *bed) Capture() *packets.Capture { return b.mesh.Capture() }

func (b *bed) Sources() []demo.Source {
	out := []demo.Source{
		{Prefix: "status", From: fmt.Sprintf("what the nodes publish below %s/status", b.mesh.Manifests())},
		{Prefix: "wire", From: "packets captured between the nodes"},
	}
	for _, n := range b.mesh.Nodes() {
		out = append(out, demo.Source{Prefix: "log " + n.Name, From: fmt.Sprintf("access log of node %s's ztunnel, %s", n.Name, n.System.Ztunnel.Log)})
	}
	return append(out,
		demo.Source{Prefix: "metrics x", From: "http://localhost:15020/metrics of node x's ztunnel, growth since the part began"},
		demo.Source{Prefix: "kernel x", From: "counters of node x's kernel programs, by http://localhost:15000/debug/bpf of its agent, growth likewise"})
}

// node is one of them.
type node struct{ *netns.Node }

func (n node) Name() string { return n.Node.Name }

func (n node) Log(context.Context) (string, error) { return n.System.Ztunnel.Output(), nil }

func (n node) Ztunnel(_ context.Context, url string) (string, error) {
	return page(n.System.Ztunnel.Pod, url)
}

func (n node) Agent(_ context.Context, url string) (string, error) {
	return page(n.System.Agent.Pod, url)
}

func page(p *netns.Pod, url string) (string, error) {
	body, status, err := p.Get(url)
	if err == nil && status != 200 {
		err = fmt.Errorf("%s of %s: status %d", url, p, status)
	}
	return body, err
}
