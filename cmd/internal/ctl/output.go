// SPDX-License-Identifier: Apache-2.0

package ctl

import (
	"cmp"
	"encoding/json"
	"fmt"
	"io"
	"strings"
	"text/tabwriter"

	"sigs.k8s.io/yaml"
)

type format string

const (
	table  format = "table"
	inJSON format = "json"
	inYAML format = "yaml"
)

var formats = []format{table, inJSON, inYAML}

func formatNames() (out []string) {
	for _, f := range formats {
		out = append(out, string(f))
	}
	return out
}

// print writes v, or rows below head for a table.
func (s *Sources) print(w io.Writer, v any, head string, rows [][]string) error {
	if s.format != table {
		return s.printValue(w, v)
	}
	t := tabwriter.NewWriter(w, 0, 8, 3, ' ', 0)
	fmt.Fprintln(t, strings.ReplaceAll(head, ", ", "\t"))
	for _, r := range rows {
		for i := range r {
			r[i] = cmp.Or(r[i], "-")
		}
		fmt.Fprintln(t, strings.Join(r, "\t"))
	}
	return t.Flush()
}

func (s *Sources) printValue(w io.Writer, v any) error {
	b, err := json.MarshalIndent(v, "", "  ")
	if err == nil && s.format == inYAML {
		b, err = yaml.JSONToYAML(b)
	}
	if err != nil {
		return err
	}
	_, err = fmt.Fprintf(w, "%s\n", strings.TrimSuffix(string(b), "\n"))
	return err
}
