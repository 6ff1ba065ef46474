// SPDX-License-Identifier: Apache-2.0

package main

import (
	"fmt"
	"io"
	"slices"
	"strings"
	"time"
)

// cell is one figure's place in the table.
type cell struct{ scenario, system, metric string }

// tally collects the runs. The zero value is empty.
type tally struct {
	order  []cell
	runs   map[cell][]float64
	shares map[string][]share // by scenario
}

// share is what one group of processes used in a scenario, over all its runs.
type share struct {
	system, group string
	cpu           time.Duration
}

func (t *tally) add(scenario, system string, figures map[string]float64) {
	if t.runs == nil {
		t.runs = map[cell][]float64{}
	}
	for _, u := range units {
		v, ok := figures[u.metric]
		if !ok {
			continue
		}
		c := cell{scenario, system, u.metric}
		if t.runs[c] == nil {
			t.order = append(t.order, c)
		}
		t.runs[c] = append(t.runs[c], v)
	}
}

func (t *tally) share(scenario, system, group string, cpu time.Duration) {
	if t.shares == nil {
		t.shares = map[string][]share{}
	}
	for i, s := range t.shares[scenario] {
		if s.system == system && s.group == group {
			t.shares[scenario][i].cpu += cpu
			return
		}
	}
	t.shares[scenario] = append(t.shares[scenario], share{system, group, cpu})
}

// printShares says which of Warren's processes the CPU went to.
func (t *tally) printShares(out io.Writer, scenario string) {
	for _, v := range variants {
		t.printShare(out, scenario, v.name)
	}
}

func (t *tally) printShare(out io.Writer, scenario, system string) {
	total := time.Duration(0)
	var ours []share
	for _, s := range t.shares[scenario] {
		if s.system == system {
			ours = append(ours, s)
			total += s.cpu
		}
	}
	if total == 0 {
		return
	}
	var words []string
	for _, s := range ours {
		words = append(words, fmt.Sprintf("%s %.1f %%", s.group, 100*float64(s.cpu)/float64(total)))
	}
	fmt.Fprintf(out, "  CPU of %s: %s\n", system, strings.Join(words, ", "))
}

// median of at least one value.
func median(v []float64) float64 {
	v = slices.Sorted(slices.Values(v))
	if n := len(v); n%2 == 0 {
		return (v[n/2-1] + v[n/2]) / 2
	}
	return v[len(v)/2]
}

// quantile of at least one value, between the two nearest.
func quantile(v []float64, share float64) float64 {
	v = slices.Sorted(slices.Values(v))
	at := share * float64(len(v)-1)
	i := int(at)
	if i+1 == len(v) {
		return v[i]
	}
	return v[i] + (at-float64(i))*(v[i+1]-v[i])
}
