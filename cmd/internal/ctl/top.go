// SPDX-License-Identifier: Apache-2.0

package ctl

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"golang.org/x/sync/errgroup"

	"github.com/warren-mesh/warren/cmd/internal/cluster"
	"github.com/warren-mesh/warren/mesh/dump"
)

func topCommand(s *Sources) *cobra.Command {
	var window time.Duration
	var limit int
	c := &cobra.Command{
		Use: "top", Short: "which pods, and which of their peers, had most traffic lately; in a cluster, all nodes'",
		Long: "Rates per second of each pod and of those it had to do with, most bytes first. A node that does not answer is named at the end.",
		Args: cobra.NoArgs, ValidArgsFunction: noFiles,
		RunE: func(cmd *cobra.Command, _ []string) error {
			query := "?" + url.Values{"window": {window.String()}, "limit": {strconv.Itoa(limit)}}.Encode()
			if in, err := s.inCluster(); err != nil {
				return err
			} else if in != nil {
				return s.topOfCluster(cmd, in, query, limit)
			}
			t, err := s.top(cmd.Context(), query)
			if err != nil {
				return err
			}
			if s.format == table {
				fmt.Fprintf(cmd.OutOrStdout(), "per second, over the last %v s\n", t.Seconds)
			}
			return s.print(cmd.OutOrStdout(), t, strings.Join(dump.TopHead, ", "), t.Rows())
		},
	}
	c.Flags().DurationVar(&window, "window", 10*time.Second, "how far to look back, a minute at most")
	c.Flags().IntVar(&limit, "limit", 10, "how many pods, and how many peers of each")
	c.Flags().StringVar(&s.node, "node", "", "only this node of the cluster, as --on")
	return c
}

// top is one node's.
func (s *Sources) top(ctx context.Context, query string) (t dump.Top, err error) {
	b, err := s.ztunnel(ctx, "/debug/top"+query, "/debug/ztunnel/top"+query, "")
	if err == nil {
		err = json.Unmarshal(b, &t)
	}
	return t, err
}

// nodeTop is what a node answered, or why it did not.
type nodeTop struct {
	Node  string `json:"node"`
	Error string `json:"error,omitempty"`
	dump.Top
}

// topOfCluster asks all nodes at once and shows what those have that answer; that others do not is its error.
func (s *Sources) topOfCluster(cmd *cobra.Command, c *cluster.Cluster, query string, limit int) error {
	nodes, err := s.nodes(cmd.Context())
	if err != nil {
		return err
	}
	answers := make([]nodeTop, len(nodes))
	var g errgroup.Group
	g.SetLimit(atOnce)
	for i, n := range nodes {
		g.Go(func() error {
			t, err := n.top(cmd.Context(), query)
			if answers[i] = (nodeTop{Node: n.node, Top: t}); err != nil {
				answers[i].Error = err.Error()
			}
			return nil
		})
	}
	_ = g.Wait() // none fails: what does is in the answers
	silent, err := s.withoutAgent(cmd.Context(), c, nodes)
	if err != nil {
		return err
	}
	answers = append(answers, silent...)
	if s.format == table {
		fmt.Fprintf(cmd.OutOrStdout(), "per second, over about the last %v s\n", seconds(answers))
	}
	if err := s.print(cmd.OutOrStdout(), answers, "NODE, "+strings.Join(dump.TopHead, ", "), topRows(answers, limit)); err != nil {
		return err
	}
	for _, a := range answers {
		if a.Error != "" {
			err = errors.Join(err, errors.New(a.Error))
		}
	}
	return err
}

// withoutAgent are the nodes that can't be asked.
func (s *Sources) withoutAgent(ctx context.Context, c *cluster.Cluster, asked []*Sources) (out []nodeTop, err error) {
	parts, err := c.Parts(ctx)
	for _, p := range parts {
		if p.Part != cluster.NodePart || s.node != "" && s.node != p.Node ||
			slices.ContainsFunc(asked, func(o *Sources) bool { return o.node == p.Node }) ||
			slices.ContainsFunc(out, func(t nodeTop) bool { return t.Node == p.Node }) {
			continue
		}
		out = append(out, nodeTop{Node: p.Node, Error: fmt.Sprintf("node %s: no agent is ready there", p.Node)})
	}
	return out, err
}

// seconds is the longest time that any node's rates are over.
func seconds(answers []nodeTop) (most float64) {
	for _, a := range answers {
		most = max(most, a.Seconds)
	}
	return most
}

// topRows are the pods of all nodes, most bytes first, at most limit.
func topRows(answers []nodeTop, limit int) (rows [][]string) {
	type onNode struct {
		node string
		dump.TopPod
	}
	var all []onNode
	for _, a := range answers {
		for _, p := range a.Pods {
			all = append(all, onNode{a.Node, p})
		}
	}
	slices.SortStableFunc(all, func(a, b onNode) int { return cmp.Compare(b.Sent+b.Received, a.Sent+a.Received) })
	for _, p := range all[:min(len(all), max(limit, 0))] {
		for _, r := range (dump.Top{Pods: []dump.TopPod{p.TopPod}}).Rows() {
			rows = append(rows, append([]string{p.node}, r...))
		}
	}
	return rows
}
