// SPDX-License-Identifier: Apache-2.0

package ctl

import (
	"cmp"
	"context"
	"fmt"
	"math/big"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/warren-mesh/warren/mesh/dump"
)

// list makes a command that shows part of ztunnel's dump.
func list(s *Sources, use, short string, show func(*cobra.Command, dump.Ztunnel) error) *cobra.Command {
	return &cobra.Command{
		Use: use, Short: short, Args: cobra.NoArgs, ValidArgsFunction: noFiles,
		RunE: func(cmd *cobra.Command, _ []string) error {
			at, err := s.near(cmd.Context())
			if err != nil {
				return err
			}
			d, err := at.dump(cmd.Context())
			if err != nil {
				return err
			}
			return show(cmd, d)
		},
	}
}

// in keeps what lies in the namespace of the flag.
func inNamespace[T any](all []T, want string, of func(T) string) []T {
	if want == "" {
		return all
	}
	return slices.DeleteFunc(slices.Clone(all), func(v T) bool { return of(v) != want })
}

func workloadsCommand(s *Sources) *cobra.Command {
	var namespace, node string
	c := list(s, "workloads", "pods and other endpoints, and how connections reach them", func(cmd *cobra.Command, d dump.Ztunnel) error {
		ws := inNamespace(d.Workloads, namespace, func(w dump.Workload) string { return w.Namespace })
		ws = inNamespace(ws, node, func(w dump.Workload) string { return w.Node })
		var rows [][]string
		for _, w := range ws {
			var ips []string
			for _, ip := range w.WorkloadIPs {
				ips = append(ips, ip.String())
			}
			rows = append(rows, []string{w.Namespace, w.Name, strings.Join(ips, ","), w.Node, "None", w.Protocol, cmp.Or(w.CaptureReason, w.Capture)})
		}
		return s.print(cmd.OutOrStdout(), ws, "NAMESPACE, POD NAME, ADDRESS, NODE, WAYPOINT, PROTOCOL, CAPTURE", rows)
	})
	c.Flags().StringVarP(&namespace, "namespace", "n", "", "only of this namespace")
	c.Flags().StringVar(&node, "node", "", "only on this node")
	return c
}

func servicesCommand(s *Sources) *cobra.Command {
	var namespace string
	c := list(s, "services", "services, their addresses and endpoints", func(cmd *cobra.Command, d dump.Ztunnel) error {
		vs := inNamespace(d.Services, namespace, func(v dump.Service) string { return v.Namespace })
		var rows [][]string
		for _, v := range vs {
			healthy := 0
			for _, e := range v.Endpoints {
				if e.Status == "Healthy" {
					healthy++
				}
			}
			waypoint := "None"
			if v.Waypoint != nil {
				waypoint = v.Waypoint.Destination
			}
			var vips []string
			for _, a := range v.VIPs {
				vips = append(vips, a[strings.LastIndexByte(a, '/')+1:])
			}
			rows = append(rows, []string{v.Namespace, v.Name, strings.Join(vips, ","), waypoint, fmt.Sprintf("%d/%d", healthy, len(v.Endpoints))})
		}
		return s.print(cmd.OutOrStdout(), vs, "NAMESPACE, SERVICE NAME, SERVICE VIP, WAYPOINT, ENDPOINTS", rows)
	})
	c.Flags().StringVarP(&namespace, "namespace", "n", "", "only of this namespace")
	return c
}

func policiesCommand(s *Sources) *cobra.Command {
	var namespace string
	c := list(s, "policies", "authorization policies", func(cmd *cobra.Command, d dump.Ztunnel) error {
		ps := inNamespace(d.Policies, namespace, func(p dump.Policy) string { return p.Namespace })
		var rows [][]string
		for _, p := range ps {
			action := p.Action
			if p.DryRun {
				action += " (dry run)"
			}
			rows = append(rows, []string{p.Namespace, p.Name, action, p.Scope})
		}
		return s.print(cmd.OutOrStdout(), ps, "NAMESPACE, POLICY NAME, ACTION, SCOPE", rows)
	})
	c.Flags().StringVarP(&namespace, "namespace", "n", "", "only of this namespace")
	return c
}

// hexadecimal is how people know a serial number.
func hexadecimal(decimal string) string {
	n, ok := new(big.Int).SetString(decimal, 10)
	if !ok {
		return decimal
	}
	return n.Text(16)
}

func certificatesCommand(s *Sources) *cobra.Command {
	c := list(s, "certificates", "certificates that ztunnel holds for its pods; in a cluster, all nodes'", nil)
	c.RunE = func(cmd *cobra.Command, _ []string) error {
		all, err := gather(cmd.Context(), s, func(ctx context.Context, at *Sources) ([]dump.Certificate, error) {
			d, err := at.dump(ctx)
			return d.Certificates, err
		})
		if err != nil {
			return err
		}
		var rows [][]string
		for _, c := range all {
			if len(c.Chain) == 0 {
				rows = append(rows, []string{c.Identity, "Leaf", c.State, "false", "", "", ""})
			}
			for i, in := range c.Chain {
				kind, now := "Leaf", time.Now()
				if i > 0 {
					kind = "Root"
				}
				valid := now.After(in.NotBefore) && now.Before(in.NotAfter)
				rows = append(rows, []string{c.Identity, kind, c.State, strconv.FormatBool(valid), hexadecimal(in.Serial),
					in.NotAfter.Format(time.RFC3339), in.NotBefore.Format(time.RFC3339)})
			}
		}
		return s.print(cmd.OutOrStdout(), all, "CERTIFICATE NAME, TYPE, STATUS, VALID CERT, SERIAL NUMBER, NOT AFTER, NOT BEFORE", rows)
	}
	return c
}
