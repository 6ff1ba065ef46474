// SPDX-License-Identifier: Apache-2.0

package tests

import (
	"encoding/json"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
)

// dashboard is what Grafana reads, as far as it is checked.
type dashboard struct {
	UID, Title string
	Panels     []struct {
		ID          int
		Type, Title string
		GridPos     struct{ W, H int }
		Targets     []struct{ Expr, LegendFormat string }
	}
}

var (
	ourMetric   = regexp.MustCompile(`\b(?:istio_tcp_|istio_build|warren_)[a-z_]*`)
	grouping    = regexp.MustCompile(`\bby \(([^)]*)\)`)
	selector    = regexp.MustCompile(`([a-z_]+)=~?"`)
	legendLabel = regexp.MustCompile(`\{\{([a-z_]+)\}\}`)
)

// TestDashboards keeps deploy/dashboards to metrics and labels that there are, as docs/metrics.md has them, which is
// itself kept to the code.
func TestDashboards(t *testing.T) {
	page, err := os.ReadFile("../docs/metrics.md")
	if err != nil {
		t.Fatal(err)
	}
	known := names(string(page))
	files, _ := filepath.Glob("../deploy/dashboards/*.json")
	if len(files) == 0 {
		t.Fatal("no dashboards")
	}
	uids := map[string]string{}
	for _, file := range files {
		b, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		var d dashboard
		if err := json.Unmarshal(b, &d); err != nil || d.UID == "" || d.Title == "" || len(d.Panels) == 0 {
			t.Errorf("%s: %v, %+v", file, err, d)
		}
		if other := uids[d.UID]; other != "" {
			t.Errorf("%s and %s are both %s", file, other, d.UID)
		}
		uids[d.UID] = file
		ids := map[int]bool{}
		for _, p := range d.Panels {
			if ids[p.ID] || p.GridPos.W == 0 || p.GridPos.W > 24 || p.Type != "row" && len(p.Targets) == 0 {
				t.Errorf("%s: panel %d %q: its id twice, no place or nothing to show", file, p.ID, p.Title)
			}
			ids[p.ID] = true
			for _, target := range p.Targets {
				metrics := ourMetric.FindAllString(grouping.ReplaceAllString(target.Expr, ""), -1)
				if len(metrics) == 0 {
					t.Errorf("%s: panel %q shows no metric: %s", file, p.Title, target.Expr)
				}
				for _, m := range metrics {
					if !slices.Contains(known, m) {
						t.Errorf("%s: panel %q: there is no %s", file, p.Title, m)
					}
				}
				for _, l := range labelsIn(target.Expr, target.LegendFormat) {
					if !strings.Contains(string(page), "`"+l+"`") {
						t.Errorf("%s: panel %q: there is no label %s", file, p.Title, l)
					}
				}
			}
		}
	}
}

func labelsIn(expr, legend string) (out []string) {
	for _, m := range grouping.FindAllStringSubmatch(expr, -1) {
		for l := range strings.SplitSeq(m[1], ",") {
			out = append(out, strings.TrimSpace(l))
		}
	}
	for _, m := range append(selector.FindAllStringSubmatch(expr, -1), legendLabel.FindAllStringSubmatch(legend, -1)...) {
		out = append(out, m[1])
	}
	return out
}
