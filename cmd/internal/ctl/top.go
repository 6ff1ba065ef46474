// SPDX-License-Identifier: Apache-2.0

package ctl

import (
	"encoding/json"
	"fmt"
	"net/url"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/warren-mesh/warren/mesh/dump"
)

func topCommand(s *Sources) *cobra.Command {
	var window time.Duration
	var limit int
	c := &cobra.Command{
		Use: "top", Short: "which pods of the node, and which of their peers, had most traffic lately",
		Long: "Rates per second of each pod and of those it had to do with, most bytes first.",
		Args: cobra.NoArgs, ValidArgsFunction: noFiles,
		RunE: func(cmd *cobra.Command, _ []string) error {
			q := "?" + url.Values{"window": {window.String()}, "limit": {strconv.Itoa(limit)}}.Encode()
			at, err := s.near(cmd.Context()) // of a cluster the node that --on names, else any
			if err != nil {
				return err
			}
			b, err := at.ztunnel(cmd.Context(), "/debug/top"+q, "/debug/ztunnel/top"+q, "")
			if err != nil {
				return err
			}
			var t dump.Top
			if err := json.Unmarshal(b, &t); err != nil {
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
	return c
}
