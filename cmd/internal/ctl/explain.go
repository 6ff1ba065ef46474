// SPDX-License-Identifier: Apache-2.0

package ctl

import (
	"encoding/json"
	"fmt"
	"net"
	"net/url"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"github.com/warren-mesh/warren/mesh/explain"
)

func explainCommand(s *Sources) *cobra.Command {
	var family int
	var namespace string
	c := &cobra.Command{
		Use:   "explain SRC DST:PORT",
		Short: "what becomes of a connection, and why",
		Long: `Asks a ztunnel what becomes of a connection from SRC to DST:PORT, and why: whether it is captured, which endpoints may be
chosen, whether it is tunnelled, and what each policy says on the other side. No connection is made.

SRC is a pod (NAMESPACE/NAME, or its uid) or an address. DST is an address ([::1]:80 for IPv6), a service or pod
(NAMESPACE/NAME; service/NAMESPACE/NAME and pod/NAMESPACE/NAME tell them apart), or a service's host name; a name
without namespace is taken in SRC's.`,
		Example: `  warrenctl explain shop/shopper web.shop:80
  warrenctl explain shop/web shop/inventory:80 -o json
  warrenctl explain 192.0.2.7 pod/shop/web:8080`,
		Args: cobra.ExactArgs(2),
		RunE: func(cmd *cobra.Command, args []string) error {
			host, port, err := net.SplitHostPort(args[1])
			if err != nil {
				return fmt.Errorf("%q: want DST:PORT (%w)", args[1], err)
			}
			if namespace != "" && !strings.ContainsAny(args[0], "/.:") {
				args[0] = namespace + "/" + args[0]
			}
			q := url.Values{"src": {args[0]}, "dst": {host}, "port": {port}}
			if family != 0 {
				q.Set("family", fmt.Sprint(family))
			}
			path := "/debug/explain?" + q.Encode()
			at, err := s.near(cmd.Context(), args[0], host)
			if err != nil {
				return err
			}
			b, err := at.ztunnel(cmd.Context(), path, path, "application/json")
			if err != nil {
				return err
			}
			var a explain.Answer
			if err := json.Unmarshal(b, &a); err != nil {
				return err
			}
			if s.format == table {
				return a.WriteText(cmd.OutOrStdout())
			}
			return s.printValue(cmd.OutOrStdout(), a)
		},
		ValidArgsFunction: s.completeEnds,
	}
	c.Flags().StringVarP(&namespace, "namespace", "n", "", "of a SRC that is a pod's name alone")
	c.Flags().IntVar(&family, "family", 0, "4 or 6: which of DST's addresses; IPv4 where there is the choice")
	return c
}

// completeEnds offers the pods, then the services and their ports.
func (s *Sources) completeEnds(cmd *cobra.Command, args []string, _ string) (out []cobra.Completion, d cobra.ShellCompDirective) {
	at, err := s.near(cmd.Context())
	if err != nil || len(args) > 1 {
		return nil, cobra.ShellCompDirectiveNoFileComp
	}
	known, err := at.dump(cmd.Context())
	if err != nil {
		return nil, cobra.ShellCompDirectiveNoFileComp
	}
	if len(args) == 0 {
		for _, w := range known.Workloads {
			out = append(out, w.Namespace+"/"+w.Name)
		}
		return out, cobra.ShellCompDirectiveNoFileComp
	}
	for _, v := range known.Services {
		for port := range v.Ports {
			out = append(out, fmt.Sprintf("%s/%s:%d", v.Namespace, v.Name, port))
		}
	}
	slices.Sort(out)
	return out, cobra.ShellCompDirectiveNoFileComp
}
