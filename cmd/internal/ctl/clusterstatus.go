// SPDX-License-Identifier: Apache-2.0

package ctl

import (
	"context"
	"slices"
	"strings"

	"golang.org/x/sync/errgroup"

	"github.com/warren-mesh/warren/cmd/internal/cluster"
)

// clusterStatus is that of every node, in their order, then of control. A pod that is not ready says what it waits for.
func (s *Sources) clusterStatus(ctx context.Context, c *cluster.Cluster) ([]part, error) {
	pods, err := c.Parts(ctx)
	if err != nil {
		return nil, err
	}
	nodes, err := c.Nodes(ctx)
	if err != nil {
		return nil, err
	}
	if s.node != "" {
		nodes = slices.DeleteFunc(nodes, func(n string) bool { return n != s.node })
	}
	answers := make([][]part, len(nodes)+1)
	var g errgroup.Group
	g.SetLimit(atOnce)
	for i, node := range nodes {
		g.Go(func() error {
			answers[i] = s.nodeStatus(ctx, c, node, slices.DeleteFunc(slices.Clone(pods), func(p cluster.Part) bool { return p.Node != node || p.Part == cluster.ControlPart }))
			return nil
		})
	}
	g.Go(func() error {
		answers[len(nodes)] = controlStatus(ctx, c, pods)
		return nil
	})
	_ = g.Wait() // none fails: what does is in the answers
	return slices.Concat(answers...), nil
}

// nodeStatus asks the newest agent that is ready, and every pod that is not what it waits for.
func (s *Sources) nodeStatus(ctx context.Context, c *cluster.Cluster, node string, pods []cluster.Part) (out []part) {
	version := map[string]string{}
	var agent *cluster.Part
	for i, p := range pods {
		if p.Part == cluster.NodePart && (agent == nil || p.Ready && !agent.Ready) {
			agent = &pods[i]
		}
		if version[p.Part] == "" {
			version[p.Part] = p.Version
		}
	}
	if agent == nil {
		return []part{{Node: node, Part: "agent", State: mute, Detail: "no pod of the DaemonSet " + cluster.NodePart + " is on this node"}}
	}
	for _, p := range s.on(c, *agent).status(ctx) {
		p.Node = node
		switch p.Part {
		case "agent", "broker":
			p.Version = version[cluster.NodePart]
		case "ztunnel": // the image's, which says more than what a program built from a checkout knows of itself
			p.Version = version[cluster.ZtunnelPart]
		}
		out = append(out, p)
	}
	for _, p := range pods {
		if !p.Ready {
			out = append(out, part{Node: node, Part: p.Part, State: wrong, Version: p.Version, Detail: waitsFor(ctx, c, p)})
		}
	}
	return out
}

func controlStatus(ctx context.Context, c *cluster.Cluster, pods []cluster.Part) (out []part) {
	for _, p := range pods {
		if p.Part != cluster.ControlPart {
			continue
		}
		line := part{Node: p.Node, Part: "control", State: good, Version: p.Version, Detail: "pod " + p.Pod + " is ready"}
		if !p.Ready {
			line.State, line.Detail = wrong, waitsFor(ctx, c, p)
		}
		out = append(out, line)
	}
	if len(out) == 0 {
		out = []part{{Part: "control", State: mute, Detail: "no pod of it: no certificate is signed"}}
	}
	return out
}

// waitsFor is what the readiness page of a pod lists, or else what its object says.
func waitsFor(ctx context.Context, c *cluster.Cluster, p cluster.Part) string {
	_, err := get(ctx, c.Page(p.Pod, cluster.ReadyPort), onSocket, "/healthz/ready", "")
	if err != nil && strings.Contains(err.Error(), "pending") {
		return "pod " + p.Pod + " is " + err.Error()
	}
	return "pod " + p.Pod + ": " + p.Why
}
