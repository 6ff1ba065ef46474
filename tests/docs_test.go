// SPDX-License-Identifier: Apache-2.0

package tests

import (
	"flag"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"sigs.k8s.io/yaml"
)

var update = flag.Bool("update", false, "rewrite what is made in docs")

// TestReasonsPage keeps docs/reasons.md to the table it is made from.
func TestReasonsPage(t *testing.T) {
	b, err := os.ReadFile("../bpf/reasons.yaml")
	if err != nil {
		t.Fatal(err)
	}
	var reasons []struct{ Name, Kind, Text string }
	if err := yaml.Unmarshal(b, &reasons); err != nil || len(reasons) == 0 {
		t.Fatalf("read reasons: %d, %v", len(reasons), err)
	}
	var table strings.Builder
	for _, r := range reasons {
		fmt.Fprintf(&table, "| `%s` | %s | %s |\n", r.Name, r.Kind, r.Text)
	}
	const path, head = "../docs/reasons.md", "|---|---|---|\n"
	page, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	before, after, ok := strings.Cut(string(page), head)
	if !ok {
		t.Fatal("docs/reasons.md has no table")
	}
	if *update {
		if err := os.WriteFile(path, []byte(before+head+table.String()), 0o644); err != nil {
			t.Fatal(err)
		}
	} else if after != table.String() {
		t.Error("docs/reasons.md is not what bpf/reasons.yaml makes: go test ./tests -run TestReasonsPage -update")
	}
}

// metricName is the name of a metric of ours, as a Go string or in a page.
var metricName = regexp.MustCompile("[\"`]((?:istio_tcp_|istio_xds_|istio_build|workload_manager_|warren_|process_)[a-z_]*)[\"`]")

// TestMetricsPage keeps docs/metrics.md complete, and free of what no longer exists; names and labels alike.
func TestMetricsPage(t *testing.T) {
	page, err := os.ReadFile("../docs/metrics.md")
	if err != nil {
		t.Fatal(err)
	}
	sources := goSources(t)
	inCode, inPage := names(sources), names(string(page))
	for _, n := range inCode {
		if !slices.Contains(inPage, n) {
			t.Errorf("docs/metrics.md has no %s", n)
		}
	}
	for _, n := range inPage {
		if !slices.Contains(inCode, n) {
			t.Errorf("docs/metrics.md has %s, which no program exports", n)
		}
	}
	labels := regexp.MustCompile(`(?s)labelNames = \[\]string\{(.*?)\}`).FindStringSubmatch(sources)
	if labels == nil {
		t.Fatal("the connection labels are not where they were")
	}
	for _, l := range regexp.MustCompile(`"(\w+)"`).FindAllStringSubmatch(labels[1], -1) {
		if !strings.Contains(string(page), "`"+l[1]+"`") {
			t.Errorf("docs/metrics.md has no label %s", l[1])
		}
	}
}

func names(text string) []string {
	var out []string
	for _, m := range metricName.FindAllStringSubmatch(text, -1) {
		out = append(out, m[1])
	}
	slices.Sort(out)
	return slices.Compact(out)
}

// goSources is the text of everything that a shipped binary is made of.
func goSources(t *testing.T) string {
	var all strings.Builder
	err := filepath.WalkDir("..", func(path string, d fs.DirEntry, err error) error {
		switch {
		case err != nil:
			return err
		case d.IsDir() && slices.Contains([]string{"../tests", "../build", "../.git"}, path):
			return fs.SkipDir
		case d.IsDir() || !strings.HasSuffix(path, ".go") || strings.HasSuffix(path, "_test.go"):
			return nil
		}
		b, err := os.ReadFile(path)
		all.Write(b)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return all.String()
}

// TestLinks follows the links between pages.
func TestLinks(t *testing.T) {
	pages, _ := filepath.Glob("../docs/*.md")
	for _, page := range append(pages, "../README.md", "../ARCHITECTURE.md", "../bpf/README.md") {
		b, err := os.ReadFile(page)
		if err != nil {
			t.Error(err)
			continue
		}
		for _, m := range regexp.MustCompile(`\]\(([^)#]+)[^)]*\)`).FindAllStringSubmatch(string(b), -1) {
			if strings.Contains(m[1], "://") {
				continue
			}
			if _, err := os.Stat(filepath.Join(filepath.Dir(page), m[1])); err != nil {
				t.Errorf("%s: link to %s: %v", page, m[1], err)
			}
		}
	}
}
