// SPDX-License-Identifier: Apache-2.0

package page

import (
	"fmt"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"
)

// Place is where commands are typed.
type Place string

// The places, each with a test that follows all pages there.
const (
	Demo    Place = "TestPages of tests/netns/demo"  // `make demo`: two nodes of namespaces
	Cluster Place = "TestDemo of tests/e2e"          // the demo on a real cluster, beside other tests
	Alone   Place = "TestMeshWidePages of tests/e2e" // the same shop there, with the mesh to itself: its settings change
)

// Step is what becomes of a command: On says where it is typed; By names a test that does the same by other means; Why says
// why neither.
type Step struct {
	Part string // of the command: which it is
	On   []Place
	By   string
	Why  string

	Shows  string        // in what it prints, beside what the page shows
	Hides  string        // not in what it prints
	Fails  bool          // it is refused
	Either bool          // its exit status is about what others do as well
	Within time.Duration // until it does what it should; default 20 s
}

// Page is a page with its steps.
type Page struct {
	File  string // relative to the repository
	Steps []Step
}

// All are the pages with commands.
func All() []Page { return pages }

// At are the pages with a step at a place.
func At(place Place) []Page {
	var out []Page
	for _, p := range pages {
		if slices.ContainsFunc(p.Steps, func(s Step) bool { return slices.Contains(s.On, place) }) {
			out = append(out, p)
		}
	}
	return out
}

// Shell runs a script as a reader's shell in the repository's top would, and returns what it prints.
type Shell func(t *testing.T, script string) (string, error)

// sets is what a command does that is for later ones: a variable or a function.
var sets = regexp.MustCompile(`^\w+(=|\(\) )`)

// Follow types the page's commands of a place in their order.
func (p Page) Follow(t *testing.T, at Place, shell Shell) {
	text, err := read(p.File)
	if err != nil {
		t.Fatal(err)
	}
	all := commands(text)
	if len(all) != len(p.Steps) {
		t.Fatalf("%s has %d commands, the table %d steps", p.File, len(all), len(p.Steps))
	}
	before := ""
	for i, s := range p.Steps {
		if !slices.Contains(s.On, at) {
			continue
		}
		c := all[i]
		if sets.MatchString(c.Text) {
			before += c.Text + "\n"
			continue
		}
		ok := t.Run(fmt.Sprintf("line %d %s", c.Line, s.Part), func(t *testing.T) { s.typed(t, c, before, shell) })
		if !ok {
			return // what follows rests on it
		}
	}
}

// typed types a command until it does what it should.
func (s Step) typed(t *testing.T, c Command, before string, shell Shell) {
	within := s.Within
	if within == 0 {
		within = 20 * time.Second
	}
	pause := 50 * time.Millisecond
	for end := time.Now().Add(within); ; time.Sleep(pause) {
		out, err := shell(t, before+c.Text+"\n")
		wrong := s.wrong(c, out, err)
		if wrong == "" {
			return
		}
		if time.Now().After(end) {
			t.Fatalf("after %v: %s\n%s\n%s", within, wrong, c.Text, out)
		}
		pause = min(2*pause, time.Second)
	}
}

func (s Step) wrong(c Command, out string, err error) string {
	switch {
	case s.Fails && err == nil:
		return "it succeeds, and should be refused"
	case err != nil && !s.Fails && !s.Either:
		return err.Error()
	case !strings.Contains(out, s.Shows):
		return fmt.Sprintf("it does not show %q", s.Shows)
	case s.Hides != "" && strings.Contains(out, s.Hides):
		return fmt.Sprintf("it shows %q", s.Hides)
	}
	if w := missing(c.Shown, out); w != "" {
		return "the page shows what it does not: " + w
	}
	return ""
}
