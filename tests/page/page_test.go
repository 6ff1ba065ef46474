// SPDX-License-Identifier: Apache-2.0

package page

import (
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

const top = "../.."

// TestEveryCommand: each line of each page that a reader may type has a step, and each step says where it is typed, names a
// test that there is, or gives a reason.
func TestEveryCommand(t *testing.T) {
	known := map[string]Page{}
	for _, p := range pages {
		known[p.File] = p
	}
	for _, file := range documents(t) {
		text, err := read(file)
		if err != nil {
			t.Fatal(err)
		}
		p := known[file]
		delete(known, file)
		all := commands(text)
		for i, c := range all {
			if i >= len(p.Steps) || !strings.Contains(c.Text, p.Steps[i].Part) {
				t.Errorf("%s:%d: %q is not the command in this place of tests/page/steps.go: say there which test types it, or why none", file, c.Line, c.Text)
				break
			}
		}
		for _, s := range p.Steps[min(len(all), len(p.Steps)):] {
			t.Errorf("%s has no command with %q any more", file, s.Part)
		}
	}
	for file := range known {
		t.Errorf("there is no page %s", file)
	}
}

// TestEveryStep: a step is typed, or done by a test that there is, or excused.
func TestEveryStep(t *testing.T) {
	for _, p := range pages {
		for _, s := range p.Steps {
			says := 0
			for _, said := range []bool{len(s.On) > 0, s.By != "", s.Why != ""} {
				if said {
					says++
				}
			}
			if says != 1 {
				t.Errorf("%s, %q: wants exactly one of On, By and Why", p.File, s.Part)
			}
			if s.By != "" {
				testExists(t, s.By)
			}
			for _, place := range s.On {
				_, test, _ := strings.Cut(string(place), "Test")
				name, dir, _ := strings.Cut("Test"+test, " of ")
				testExists(t, dir+" "+name)
			}
		}
	}
}

// TestMakeTargets: what a page has made has a target, whether a test makes it or not.
func TestMakeTargets(t *testing.T) {
	makefile, err := read("Makefile")
	if err != nil {
		t.Fatal(err)
	}
	made := 0
	for _, file := range documents(t) {
		text, err := read(file)
		if err != nil {
			t.Fatal(err)
		}
		for _, c := range commands(text) {
			line, _, _ := strings.Cut(c.Text, " #")
			_, targets, _ := strings.Cut(" "+line, " make ")
			for _, target := range strings.Fields(targets) {
				if strings.Contains(target, "=") {
					break // variables follow
				}
				if made++; !strings.Contains(makefile, "\n"+target+":") {
					t.Errorf("%s:%d: the Makefile has no target %s", file, c.Line, target)
				}
			}
		}
	}
	if made < 10 {
		t.Errorf("the pages make %d targets", made)
	}
}

func testExists(t *testing.T, what string) {
	t.Helper()
	dir, name, _ := strings.Cut(what, " ")
	files, _ := filepath.Glob(filepath.Join(top, dir, "*_test.go"))
	for _, f := range files {
		if b, _ := os.ReadFile(f); strings.Contains(string(b), "func "+name+"(t *testing.T)") {
			return
		}
	}
	t.Errorf("there is no test %s in %s", name, dir)
}

// documents are the pages of the documentation.
func documents(t *testing.T) []string {
	t.Helper()
	out := []string{"README.md", "ARCHITECTURE.md"}
	err := filepath.WalkDir(filepath.Join(top, "docs"), func(path string, _ os.DirEntry, err error) error {
		rel, err2 := filepath.Rel(top, path)
		if strings.HasSuffix(path, ".md") {
			out = append(out, rel)
		}
		return errors.Join(err, err2)
	})
	if err != nil || len(out) < 20 {
		t.Fatalf("%d pages, %v", len(out), err)
	}
	return out
}

func TestCommands(t *testing.T) {
	const text = "Text:\n\n    first\n    second # why\n\n```json\nshown\n```\n\n    third\n\nNot of the third:\n\n```\nx\n    no command\n```\n\n    fourth\n\n```yaml\na: b\n```\n"
	want := []Command{{3, "first", ""}, {4, "second # why", "shown\n"}, {10, "third", ""}, {19, "fourth", ""}}
	if got := commands(text); !slices.Equal(got, want) {
		t.Errorf("got %+v, want %+v", got, want)
	}
}

func TestMissing(t *testing.T) {
	const line = "2026-11-24T07:36:50.018478Z error src.addr=10.244.2.4:44494 duration=0ms\nroot=\"1ebf4d3cf1be4ed1\" 3.15e+08"
	for _, tt := range []struct{ name, output, want string }{
		{"the same", line, ""},
		{"another key", "2027-01-01T00:00:00.1Z error src=[fd00::3]:1 duration=17ms root=\"99\" 12", "src.addr=10.244.2.4:44494 after error"},
		{"an address of IPv6", strings.Replace(line, "10.244.2.4:44494", "fd00:244::a", 1), ""},
		{"other numbers, more lines", "before\n2027-01-01T00:00:00.1Z error src.addr=1.2.3.4:5\nduration=17ms more root=\"99ab\" 12", ""},
		{"another word", strings.Replace(line, "error", "info", 1), "error after 2026-11-24T07:36:50.018478Z"},
		{"a missing end", strings.TrimSuffix(line, " 3.15e+08"), "3.15e+08 after root=\"1ebf4d3cf1be4ed1\""},
		{"another order", "error 2026-11-24T07:36:50.018478Z src.addr=1 duration=0ms root=\"1\" 3", "error after 2026-11-24T07:36:50.018478Z"},
	} {
		if got := missing(line, tt.output); got != tt.want {
			t.Errorf("%s: got %q, want %q", tt.name, got, tt.want)
		}
	}
	for output, want := range map[string]string{"a path=/host/x b": "", "a path=/other b": "path=/host/… after a", "a path=/host/x": "b after path=/host/…"} {
		if got := missing("a path=/host/… … b", output); got != want {
			t.Errorf("an open word in %q: got %q, want %q", output, got, want)
		}
	}
}
