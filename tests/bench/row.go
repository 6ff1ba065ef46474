// SPDX-License-Identifier: Apache-2.0

package main

import (
	"cmp"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"text/tabwriter"
)

// row is one figure of the report: the median of its runs, and its ratio to the baseline's in the same scenario.
type row struct {
	Scenario string  `json:"scenario"`
	System   string  `json:"system"`
	Metric   string  `json:"metric"`
	Value    float64 `json:"value"`
	Unit     string  `json:"unit"`
	Baseline string  `json:"baseline"` // a system
	Ratio    float64 `json:"ratio"`    // value by the baseline's; 0 when that is 0
	Runs     int     `json:"runs"`
}

// rows are ordered by scenario, then by metric.
func (t *tally) rows() []row {
	slices.SortStableFunc(t.order, func(a, b cell) int {
		return cmp.Or(cmp.Compare(scenarioIndex(a.scenario), scenarioIndex(b.scenario)), cmp.Compare(unitIndex(a.metric), unitIndex(b.metric)))
	})
	var out []row
	for _, c := range t.order {
		r := row{Scenario: c.scenario, System: c.system, Metric: c.metric, Value: median(t.runs[c]), Runs: len(t.runs[c])}
		r.Unit = units[unitIndex(c.metric)].unit
		r.Baseline = t.baseline(c)
		if base := median(t.runs[cell{c.scenario, r.Baseline, c.metric}]); base != 0 {
			r.Ratio = r.Value / base
		}
		out = append(out, r)
	}
	return out
}

// baseline is HAProxy where it was measured, else no mesh, else the figure itself.
func (t *tally) baseline(c cell) string {
	for _, system := range []string{haproxy, none} {
		if len(t.runs[cell{c.scenario, system, c.metric}]) > 0 {
			return system
		}
	}
	return c.system
}

func writeJSON(file string, rows []row) error {
	b, err := json.MarshalIndent(rows, "", "  ")
	if err != nil {
		return err
	}
	if err := os.MkdirAll(filepath.Dir(file), 0o755); err != nil {
		return err
	}
	return os.WriteFile(file, append(b, '\n'), 0o644)
}

// printTable has a line for each figure and a column for each system, with the ratio to the baseline in brackets.
func printTable(out io.Writer, rows []row, systems []string) {
	columns := slices.Clone(systems)
	for _, r := range rows {
		if !slices.Contains(columns, r.System) {
			columns = append(columns, r.System)
		}
	}
	w := tabwriter.NewWriter(out, 0, 0, 2, ' ', tabwriter.AlignRight)
	defer w.Flush()
	fmt.Fprint(w, "\nscenario\tmetric\tunit\t")
	for _, c := range columns {
		fmt.Fprintf(w, "%s\t", c)
	}
	fmt.Fprintln(w)
	seen := map[cell]bool{}
	for _, r := range rows {
		line := cell{scenario: r.Scenario, metric: r.Metric}
		if seen[line] {
			continue
		}
		seen[line] = true
		fmt.Fprintf(w, "%s\t%s\t%s\t", r.Scenario, r.Metric, r.Unit)
		for _, c := range columns {
			fmt.Fprintf(w, "%s\t", entry(rows, cell{r.Scenario, c, r.Metric}))
		}
		fmt.Fprintln(w)
	}
}

func entry(rows []row, c cell) string {
	for _, r := range rows {
		if c != (cell{r.Scenario, r.System, r.Metric}) {
			continue
		}
		if r.Baseline == r.System {
			return number(r.Value)
		}
		return fmt.Sprintf("%s (%.2f)", number(r.Value), r.Ratio)
	}
	return "-"
}

// number has about three digits.
func number(v float64) string {
	switch {
	case v >= 100:
		return fmt.Sprintf("%.0f", v)
	case v >= 10:
		return fmt.Sprintf("%.1f", v)
	}
	return fmt.Sprintf("%.2f", v)
}
