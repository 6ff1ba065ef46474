// SPDX-License-Identifier: Apache-2.0

package ctl

import (
	"cmp"
	"errors"
	"slices"

	"github.com/spf13/cobra"

	"github.com/warren-mesh/warren/cmd/internal/cluster"
)

func checkCommand(s *Sources) *cobra.Command {
	return &cobra.Command{
		Use: "check", Short: "whether the installation in a cluster is whole",
		Long: `Asks the API server for what an installation needs: custom resources, rights, versions, DaemonSets and their pods, kernels; and
every node's agent, broker and ztunnel whether they are well. Pods of enrolled namespaces that are not captured are listed
with the reason. The exit status is 1 when something has failed.`,
		Args: cobra.NoArgs, ValidArgsFunction: noFiles,
		RunE: func(cmd *cobra.Command, _ []string) error {
			c, err := s.theCluster()
			if err != nil {
				return err
			}
			found := c.Check(cmd.Context())
			parts, err := s.clusterStatus(cmd.Context(), c)
			if err != nil {
				found = append(found, cluster.Finding{Check: "nodes", State: cluster.Bad, Detail: err.Error()})
			}
			for _, p := range parts {
				f := cluster.Finding{Check: cmp.Or(p.Node, "anywhere") + ": " + p.Part, State: cluster.Good, Detail: p.Detail}
				if p.State != good {
					f.State, f.Detail = cluster.Bad, p.State+": "+p.Detail
				}
				if !p.pod { // the objects told of these
					found = append(found, f)
				}
			}
			var rows [][]string
			for _, f := range found {
				rows = append(rows, []string{f.Check, string(f.State), f.Detail})
			}
			if err := s.print(cmd.OutOrStdout(), found, "CHECK, STATE, DETAIL", rows); err != nil {
				return err
			}
			if slices.ContainsFunc(found, func(f cluster.Finding) bool { return f.State == cluster.Bad }) {
				return errors.New("something has failed")
			}
			return nil
		},
	}
}
