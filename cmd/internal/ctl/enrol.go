// SPDX-License-Identifier: Apache-2.0

package ctl

import (
	"fmt"

	"github.com/spf13/cobra"

	"github.com/warren-mesh/warren/mesh/kube"
)

func enrolCommand(s *Sources) *cobra.Command {
	return enrolment(s, "enrol NAMESPACE", "take a namespace's pods into the mesh",
		`Labels the namespace `+kube.KeyMesh+`: enabled. Its pods are captured as they run; connections that are open go on untouched.`, true)
}

func unenrolCommand(s *Sources) *cobra.Command {
	return enrolment(s, "unenrol NAMESPACE", "take a namespace's pods out of the mesh",
		`Removes the label `+kube.KeyMesh+`; where the namespace would stay in the mesh by `+kube.KeyDataplaneMode+` or an annotation, sets it to
disabled.`, false)
}

func enrolment(s *Sources, use, short, long string, in bool) *cobra.Command {
	return &cobra.Command{
		Use: use, Short: short, Long: long, Args: cobra.ExactArgs(1), ValidArgsFunction: s.completeNamespace,
		RunE: func(cmd *cobra.Command, args []string) error {
			c, err := s.theCluster()
			if err != nil {
				return err
			}
			label, err := c.Enrol(cmd.Context(), args[0], in)
			switch {
			case err != nil:
				return err
			case label == "":
				label = "removed"
			}
			_, err = fmt.Fprintf(cmd.OutOrStdout(), "namespace %s: label %s %s\n", args[0], kube.KeyMesh, label)
			return err
		},
	}
}

func (s *Sources) completeNamespace(cmd *cobra.Command, args []string, _ string) ([]cobra.Completion, cobra.ShellCompDirective) {
	c, err := s.theCluster()
	if err != nil || len(args) > 0 {
		return nil, cobra.ShellCompDirectiveNoFileComp
	}
	out, _ := c.Namespaces(cmd.Context()) // of what can't be listed nothing is offered
	return out, cobra.ShellCompDirectiveNoFileComp
}
