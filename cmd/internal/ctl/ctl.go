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

It asks the agent and the ztunnel of one node: on the node itself, by their sockets in the run directory (which root may
enter), or anywhere by the URL of a page, for instance of a port forward. The agent passes on what only ztunnel knows.`

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
	f.StringVarP((*string)(&s.format), "output", "o", string(table), "table, json or yaml")
	_ = root.RegisterFlagCompletionFunc("output", cobra.FixedCompletions(formatNames(), cobra.ShellCompDirectiveNoFileComp))
	root.PersistentPreRunE = func(*cobra.Command, []string) error {
		if !slices.Contains(formats, s.format) {
			return fmt.Errorf("--output %q: want %s", s.format, strings.Join(formatNames(), ", "))
		}
		return nil
	}
	root.AddCommand(explainCommand(&s), statusCommand(&s), workloadsCommand(&s), servicesCommand(&s), policiesCommand(&s),
		certificatesCommand(&s), connectionsCommand(&s))
	return root
}

func noFiles(*cobra.Command, []string, string) ([]cobra.Completion, cobra.ShellCompDirective) {
	return nil, cobra.ShellCompDirectiveNoFileComp
}
