// SPDX-License-Identifier: Apache-2.0

package demo

import (
	"cmp"
	"slices"
	"strconv"
	"strings"
)

// sample is one series of a scrape.
type sample struct {
	Node, Name string
	Labels     map[string]string
	Value      float64
}

func (s *sample) key() string {
	var b strings.Builder
	for _, k := range slices.Sorted(keys(s.Labels)) {
		b.WriteString(k + "=" + s.Labels[k] + ",")
	}
	return s.Node + " " + s.Name + " " + b.String()
}

func keys(m map[string]string) func(func(string) bool) {
	return func(yield func(string) bool) {
		for k := range m {
			if !yield(k) {
				return
			}
		}
	}
}

// parseMetrics reads the series of Prometheus' text format whose names begin with one of the prefixes.
func parseMetrics(node, text string, prefixes ...string) []sample {
	var out []sample
	for line := range strings.Lines(text) {
		if !slices.ContainsFunc(prefixes, func(p string) bool { return strings.HasPrefix(line, p) }) {
			continue
		}
		name, rest, ok := strings.Cut(strings.TrimSpace(line), "{")
		labels, value, closed := strings.Cut(rest, "} ")
		v, err := strconv.ParseFloat(value, 64)
		if !ok || !closed || err != nil {
			continue
		}
		s := sample{Node: node, Name: name, Labels: map[string]string{}, Value: v}
		for labels != "" {
			key, after, _ := strings.Cut(labels, "=")
			quoted, err := strconv.QuotedPrefix(after)
			if err != nil {
				break
			}
			s.Labels[key], _ = strconv.Unquote(quoted)
			labels = strings.TrimPrefix(after[len(quoted):], ",")
		}
		out = append(out, s)
	}
	return out
}

// since returns by how much each series has grown; what has not is left out.
func since(before, after []sample) []sample {
	old := map[string]float64{}
	for _, s := range before {
		old[s.key()] = s.Value
	}
	var out []sample
	for _, s := range after {
		if s.Value -= old[s.key()]; s.Value > 0 {
			out = append(out, s)
		}
	}
	slices.SortStableFunc(out, func(a, b sample) int {
		return cmp.Or(cmp.Compare(order(a.Labels["source_workload"]), order(b.Labels["source_workload"])),
			cmp.Compare(a.Labels["destination_workload"], b.Labels["destination_workload"]), cmp.Compare(a.key(), b.key()))
	})
	return out
}
