// SPDX-License-Identifier: Apache-2.0

// Package ctl is warrenctl: commands that ask the pages of an agent or a ztunnel, and print tables, JSON or YAML.
package ctl

import (
	"fmt"
	"slices"
	"strings"

	"github.com/spf13/cobra"
)

const long = `Shows what a node's part of the mesh knows and does, and explains what becomes of a connection.

On a node it asks the agent and the ztunnel there by their sockets in the run directory (which root may enter). Elsewhere, or
with --kubeconfig or --context, it asks a cluster: the API server, and the nodes' agents through port forwards to their pods
in ` + "`warren-system`" + `, which needs the right to create pods/portforward there; the node is found by the pod that is asked about.
With --agent or --ztunnel it asks one page by its URL.`

// New is the command with all its subcommands. Its output goes to the writers that are set on it.
func New() *cobra.Command {
	var s Sources
	root := &cobra.Command{
		Use: "warrenctl", Short: "look into a Warren mesh", Long: long,
		SilenceUsage: true, DisableAutoGenTag: true,
	}
	f := root.PersistentFlags()
	f.StringVar(&s.Agent, "agent", "", "URL of an agent's debug page, such as http://localhost:15000")
	f.StringVar(&s.Ztunnel, "ztunnel", "", "URL of a ztunnel's admin page, such as http://localhost:15000")
	f.StringVar(&s.RunDir, "run-dir", "/run/warren", "this node's run directory, asked where no URL is given")
	f.StringVar(&s.Cluster.Kubeconfig, "kubeconfig", "", "kubeconfig of the cluster to ask (default $KUBECONFIG or ~/.kube/config)")
	f.StringVar(&s.Cluster.Context, "context", "", "context of the kubeconfig")
	f.StringVar(&s.Cluster.System, "system", "warren-system", "namespace of Warren's own pods")
	f.StringVar(&s.node, "on", "", "node of the cluster to ask, in place of all or of the one that is found")
	f.StringVarP((*string)(&s.format), "output", "o", string(table), "table, json or yaml")
	_ = root.RegisterFlagCompletionFunc("output", cobra.FixedCompletions(formatNames(), cobra.ShellCompDirectiveNoFileComp))
	root.PersistentPreRunE = func(*cobra.Command, []string) error {
		if !slices.Contains(formats, s.format) {
			return fmt.Errorf("--output %q: want %s", s.format, strings.Join(formatNames(), ", "))
		}
		return nil
	}
	root.AddCommand(explainCommand(&s), statusCommand(&s), workloadsCommand(&s), servicesCommand(&s), policiesCommand(&s),
		certificatesCommand(&s), connectionsCommand(&s), topCommand(&s), checkCommand(&s), enrolCommand(&s), unenrolCommand(&s))
	root.PersistentPostRun = func(*cobra.Command, []string) {
		if s.opened != nil {
			s.opened.Close()
		}
	}
	return root
}

func noFiles(*cobra.Command, []string, string) ([]cobra.Completion, cobra.ShellCompDirective) {
	return nil, cobra.ShellCompDirectiveNoFileComp
}
