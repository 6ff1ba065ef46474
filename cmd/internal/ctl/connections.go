// SPDX-License-Identifier: Apache-2.0

package ctl

import (
	"context"
	"encoding/json"
	"fmt"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"github.com/warren-mesh/warren/mesh/dump"
)

// live is a live connection with the pod it is seen from.
type live struct {
	Workload  string `json:"workload"`
	Namespace string `json:"namespace"`
	Direction string `json:"direction"` // Inbound or Outbound
	dump.Connection
}

func (l live) row() []string {
	local, remote := l.Src, l.ActualDst
	if l.Direction == inbound {
		local, remote = remote, local
	}
	return []string{l.Namespace + "/" + l.Workload, l.Direction, local, remote, l.OriginalDst, l.Protocol}
}

const (
	inbound  = "Inbound"
	outbound = "Outbound"
)

func connectionsCommand(s *Sources) *cobra.Command {
	var namespace, direction string
	c := &cobra.Command{
		Use: "connections", Short: "live connections of the node's pods; in a cluster, all nodes'", Args: cobra.NoArgs, ValidArgsFunction: noFiles,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if direction != "" && direction != "inbound" && direction != "outbound" {
				return fmt.Errorf("--direction %q: want inbound or outbound", direction)
			}
			all, err := gather(cmd.Context(), s, connections)
			if err != nil {
				return err
			}
			all = inNamespace(all, namespace, func(l live) string { return l.Namespace })
			all = inNamespace(all, direction, func(l live) string { return strings.ToLower(l.Direction) })
			var rows [][]string
			for _, l := range all {
				rows = append(rows, l.row())
			}
			return s.print(cmd.OutOrStdout(), all, "WORKLOAD, DIRECTION, LOCAL, REMOTE, REMOTE TARGET, PROTOCOL", rows)
		},
	}
	c.Flags().StringVarP(&namespace, "namespace", "n", "", "only of this namespace's pods")
	c.Flags().StringVar(&direction, "direction", "", "only inbound or outbound")
	_ = c.RegisterFlagCompletionFunc("direction", cobra.FixedCompletions([]string{"inbound", "outbound"}, cobra.ShellCompDirectiveNoFileComp))
	return c
}

// connections are those of one node.
func connections(ctx context.Context, s *Sources) ([]live, error) {
	b, err := s.ztunnel(ctx, "/debug/connections", "/debug/ztunnel/connections", "")
	if err != nil {
		return nil, err
	}
	var pods map[string]dump.WorkloadState
	if err := json.Unmarshal(b, &pods); err != nil {
		return nil, err
	}
	return flatten(pods), nil
}

func flatten(pods map[string]dump.WorkloadState) []live {
	out := []live{}
	for _, p := range pods {
		for direction, cs := range map[string][]dump.Connection{inbound: p.Connections.Inbound, outbound: p.Connections.Outbound} {
			for _, c := range cs {
				out = append(out, live{p.Info.Name, p.Info.Namespace, direction, c})
			}
		}
	}
	slices.SortFunc(out, func(a, b live) int {
		return slices.Compare([]string{a.Namespace, a.Workload, a.Direction, a.Src}, []string{b.Namespace, b.Workload, b.Direction, b.Src})
	})
	return out
}
