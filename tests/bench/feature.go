// SPDX-License-Identifier: Apache-2.0

package main

import (
	"fmt"
	"io"
	"slices"
	"text/tabwriter"
)

// costs are the metrics that tell what a feature adds, and what they are counted by.
var costs = []struct{ metric, per, unit string }{
	{"cpu_us_per_conn", "new connection", "µs"},
	{"cpu_us_per_req", "request", "µs"},
	{"cpu_s_per_gb", "byte", "ns"}, // a second for a gigabyte is a nanosecond for a byte
	{"kib_per_conn", "open connection", "KiB"},
	{"rss_mib", "node, memory", "MiB"},
}

// addition is what a variant costs beside the bare one: medians over the rounds of what both had in the same round, so
// that whatever else the machine did fell on both; and the quartiles of the ratio, for how sure that is.
type addition struct {
	added            float64
	ratio, low, high float64
	rounds           int
}

// addition reports whether both were measured.
func (t *tally) addition(c cell) (a addition, ok bool) {
	with, without := t.runs[c], t.runs[cell{c.scenario, warrenBare, c.metric}]
	a.rounds = min(len(with), len(without))
	var differences, ratios []float64
	for i := range a.rounds {
		differences = append(differences, with[i]-without[i])
		if without[i] != 0 {
			ratios = append(ratios, with[i]/without[i])
		}
	}
	if len(ratios) == 0 {
		return a, false
	}
	a.added = median(differences)
	a.low, a.ratio, a.high = quantile(ratios, 0.25), median(ratios), quantile(ratios, 0.75)
	return a, true
}

func (a addition) String() string {
	text := fmt.Sprintf("%+.2f x%.2f", a.added, a.ratio)
	if a.rounds > 1 {
		text += fmt.Sprintf(" (%.2f-%.2f)", a.low, a.high)
	}
	return text
}

// printFeatures says what each feature adds; nothing where the bare variant was not measured.
func (t *tally) printFeatures(out io.Writer, systems []string) {
	if !slices.Contains(systems, warrenBare) {
		return
	}
	columns := slices.DeleteFunc(slices.Clone(systems), func(name string) bool { return name == warrenBare || variantIndex(name) < 0 })
	fmt.Fprintln(out, "\nwhat features add to the CPU and memory of Warren: the difference to warren-bare, the ratio, and the ratio's quartiles over the rounds")
	w := tabwriter.NewWriter(out, 0, 0, 2, ' ', tabwriter.AlignRight)
	defer w.Flush()
	fmt.Fprintf(w, "for each\tscenario\tunit\t%s\t", warrenBare)
	for _, c := range columns {
		fmt.Fprintf(w, "%s\t", c)
	}
	fmt.Fprintln(w)
	for _, cost := range costs {
		for _, sc := range scenarios {
			bare := t.runs[cell{sc.name, warrenBare, cost.metric}]
			if len(bare) == 0 {
				continue
			}
			fmt.Fprintf(w, "%s\t%s\t%s\t%s\t", cost.per, sc.name, cost.unit, number(median(bare)))
			for _, c := range columns {
				if a, ok := t.addition(cell{sc.name, c, cost.metric}); ok {
					fmt.Fprintf(w, "%v\t", a)
				} else {
					fmt.Fprint(w, "-\t")
				}
			}
			fmt.Fprintln(w)
		}
	}
}
