// SPDX-License-Identifier: Apache-2.0

package ctl

import (
	"context"
	"errors"
	"fmt"
	"os"
	"slices"

	"golang.org/x/sync/errgroup"

	"github.com/warren-mesh/warren/cmd/internal/cluster"
)

// atOnce bounds how many nodes are asked at a time.
const atOnce = 16

// inCluster is the cluster to ask, nil where a node is asked directly: by URL, or by this node's sockets unless a
// kubeconfig is named.
func (s *Sources) inCluster() (*cluster.Cluster, error) {
	if s.opened != nil {
		return s.opened, nil
	}
	if s.Agent != "" || s.Ztunnel != "" {
		return nil, nil
	}
	named := s.Cluster.Kubeconfig != "" || s.Cluster.Context != ""
	if _, err := os.Stat(s.RunDir); err == nil && !named {
		return nil, nil
	}
	c, err := cluster.Open(s.Cluster)
	if err != nil {
		if !named {
			err = fmt.Errorf("%w; this is no node of the mesh either (%s is not there)", err, s.RunDir)
		}
		return nil, err
	}
	s.opened = c
	return c, nil
}

// theCluster is for what only a cluster can be asked.
func (s *Sources) theCluster() (*cluster.Cluster, error) {
	c, err := s.inCluster()
	if c == nil && err == nil {
		c, err = cluster.Open(s.Cluster)
		s.opened = c
	}
	return c, err
}

// near is where an answer comes from that every node can give: a node directly, or of a cluster the node of the first
// of the ends that has one, else any.
func (s *Sources) near(ctx context.Context, ends ...string) (*Sources, error) {
	all, err := s.nodes(ctx)
	if err != nil || s.opened == nil || s.node != "" {
		return first(all), err
	}
	for _, end := range ends {
		node, err := s.opened.NodeOf(ctx, end)
		if err != nil {
			break // who may not list pods asks any node: all know the same
		}
		if i := slices.IndexFunc(all, func(o *Sources) bool { return o.node == node }); i >= 0 {
			return all[i], nil
		}
	}
	return first(all), nil
}

func first(all []*Sources) *Sources {
	if len(all) == 0 {
		return nil
	}
	return all[0]
}

// nodes are those with an agent that is ready, in order; s itself where a node is asked directly.
func (s *Sources) nodes(ctx context.Context) (out []*Sources, err error) {
	c, err := s.inCluster()
	if err != nil || c == nil {
		return []*Sources{s}, err
	}
	parts, err := c.Parts(ctx)
	if err != nil {
		return nil, err
	}
	for _, p := range parts {
		if p.Part != cluster.NodePart || !p.Ready || len(out) > 0 && out[len(out)-1].node == p.Node || s.node != "" && s.node != p.Node {
			continue
		}
		out = append(out, s.on(c, p))
	}
	if len(out) == 0 {
		if s.node != "" {
			return nil, fmt.Errorf("no agent is ready on node %s", s.node)
		}
		return nil, errors.New("no agent is ready on any node (warrenctl check tells more)")
	}
	return out, nil
}

func (s *Sources) on(c *cluster.Cluster, p cluster.Part) *Sources {
	o := *s
	o.node, o.through = p.Node, c.Page(p.Pod, cluster.DebugPort)
	return &o
}

// gather asks all nodes at once; the answers come in the order of the nodes, and one that fails fails all.
func gather[T any](ctx context.Context, s *Sources, ask func(context.Context, *Sources) ([]T, error)) ([]T, error) {
	nodes, err := s.nodes(ctx)
	if err != nil {
		return nil, err
	}
	answers := make([][]T, len(nodes))
	g, ctx := errgroup.WithContext(ctx)
	g.SetLimit(atOnce)
	for i, n := range nodes {
		g.Go(func() (err error) {
			answers[i], err = ask(ctx, n)
			return err
		})
	}
	if err := g.Wait(); err != nil {
		return nil, err
	}
	return slices.Concat(answers...), nil
}
