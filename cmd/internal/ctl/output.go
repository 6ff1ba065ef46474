// SPDX-License-Identifier: Apache-2.0

package ctl

import (
	"cmp"
	"encoding/json"
	"fmt"
	"io"
	"strings"
	"text/tabwriter"
	"unicode"

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
			r[i] = cmp.Or(strings.Map(harmless, r[i]), "-")
		}
		fmt.Fprintln(t, strings.Join(r, "\t"))
	}
	return t.Flush()
}

// harmless shows what commands a terminal, and what would begin another cell or row, as no more than a character: much of
// what is printed was written by others than who reads it.
func harmless(r rune) rune {
	switch {
	case r == '\n', r == '\t':
		return ' '
	case unicode.IsControl(r):
		return unicode.ReplacementChar
	}
	return r
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
