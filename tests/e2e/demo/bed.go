// SPDX-License-Identifier: Apache-2.0

package demo

import (
	"context"
	"fmt"
	"net/netip"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/warren-mesh/warren/tests/cluster"
	"github.com/warren-mesh/warren/tests/demo"
	"github.com/warren-mesh/warren/tests/packets"
)

// system is Warren's namespace.
const system = "warren-system"

// bed is a cluster.
type bed struct {
	*cluster.API
	capture func() *packets.Capture // nil where packets between the nodes can't be seen
	pods    []demo.Pod
	nodes   []demo.Node
}

// newBed reads where the shop's pods are; they run.
func newBed(ctx context.Context, api *cluster.API, capture func() *packets.Capture) (*bed, error) {
	b := &bed{API: api, capture: capture}
	seen := map[string]bool{}
	for _, selector := range []struct{ namespace, labels string }{{demo.ShopNamespace, "app"}, {metav1.NamespaceDefault, "app=legacy"}} {
		pods, err := api.Client().CoreV1().Pods(selector.namespace).List(ctx, metav1.ListOptions{LabelSelector: selector.labels})
		if err != nil {
			return nil, fmt.Errorf("list the shop's pods: %w", err)
		}
		for _, p := range pods.Items {
			b.pods = append(b.pods, podOf(p))
			if seen[p.Spec.NodeName] {
				continue
			}
			seen[p.Spec.NodeName] = true
			n, err := b.node(ctx, p.Spec.NodeName)
			if err != nil {
				return nil, err
			}
			b.nodes = append(b.nodes, n)
		}
	}
	slices.SortFunc(b.nodes, func(x, y demo.Node) int { return strings.Compare(x.Name(), y.Name()) })
	return b, nil
}

func podOf(p corev1.Pod) demo.Pod {
	out := demo.Pod{Namespace: p.Namespace, Name: p.Name, Node: p.Spec.NodeName}
	for _, ip := range p.Status.PodIPs {
		if a, err := netip.ParseAddr(ip.IP); err == nil {
			out.Addresses = append(out.Addresses, a)
		}
	}
	return out
}

func (b *bed) Nodes() []demo.Node { return b.nodes }

func (b *bed) Pods() []demo.Pod { return b.pods }

func (b *bed) Exec(ctx context.Context, pod string, args ...string) (string, error) {
	for _, p := range b.pods {
		if p.String() == pod {
			out, stderr, err := b.API.Exec(ctx, p.Namespace, p.Name, "", append([]string{"shop"}, args...)...)
			if err != nil {
				err = fmt.Errorf("%w: %s", err, stderr)
			}
			return out, err
		}
	}
	return "", fmt.Errorf("no pod %s", pod)
}

func (b *bed) Published(ctx context.Context, p demo.Pod) (string, error) {
	o, err := b.Client().CoreV1().Pods(p.Namespace).Get(ctx, p.Name, metav1.GetOptions{})
	if err != nil {
		return "", err
	}
	return o.Annotations["warren.dev/captured"], nil
}

func (b *bed) Capture() *packets.Capture {
	if b.capture == nil {
		return nil
	}
	return b.capture()
}

func (b *bed) Sources() []demo.Source {
	out := []demo.Source{{Prefix: "status", From: "what the nodes publish: annotation warren.dev/captured of the pods"}}
	if b.capture != nil {
		out = append(out, demo.Source{Prefix: "wire", From: "packets captured between the nodes"})
	}
	for _, n := range b.nodes {
		n := n.(*node)
		out = append(out, demo.Source{Prefix: "log " + n.name, From: fmt.Sprintf("access log of node %s's ztunnel, kubectl logs -n %s %s", n.name, system, n.ztunnel)})
	}
	return append(out,
		demo.Source{Prefix: "metrics x", From: "http://localhost:15020/metrics of node x's ztunnel, growth since the part began"},
		demo.Source{Prefix: "kernel x", From: "counters of node x's kernel programs, by http://localhost:15000/debug/bpf of its agent, growth likewise"})
}

// node is one with Warren's pods on it.
type node struct {
	api                  *cluster.API
	name, ztunnel, agent string // the last two are pods
}

func (b *bed) node(ctx context.Context, name string) (*node, error) {
	n := &node{api: b.API, name: name}
	for app, pod := range map[string]*string{"warren-ztunnel": &n.ztunnel, "warren-node": &n.agent} {
		pods, err := b.Client().CoreV1().Pods(system).List(ctx, metav1.ListOptions{
			LabelSelector: "app.kubernetes.io/name=" + app, FieldSelector: "spec.nodeName=" + name})
		if err != nil {
			return nil, fmt.Errorf("find %s of node %s: %w", app, name, err)
		}
		for _, p := range pods.Items {
			if p.DeletionTimestamp == nil {
				*pod = p.Name
			}
		}
		if *pod == "" {
			return nil, fmt.Errorf("node %s has no pod of %s: Warren must be installed on every node (make install)", name, app)
		}
	}
	return n, nil
}

func (n *node) Name() string { return n.name }

func (n *node) Log(ctx context.Context) (string, error) {
	return n.api.Logs(ctx, system, n.ztunnel, "")
}

func (n *node) Ztunnel(ctx context.Context, url string) (string, error) {
	return n.api.Fetch(ctx, system, n.ztunnel, url)
}

func (n *node) Agent(ctx context.Context, url string) (string, error) {
	return n.api.Fetch(ctx, system, n.agent, url)
}
