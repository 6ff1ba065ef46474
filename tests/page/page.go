// SPDX-License-Identifier: Apache-2.0

// Package page types what the pages of the documentation have their reader type. A line indented by four that stands in no
// block is a command; the block right below it is what it prints. The table in steps.go says of every command where it is
// typed, by which test, or why nowhere; TestEveryCommand wants it complete. A place's test follows all pages it has steps of:
//
//	for _, p := range page.At(page.Demo) {
//		t.Run(p.File, func(t *testing.T) { p.Follow(t, page.Demo, shell) })
//	}
package page

import (
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"runtime"
	"strings"
)

// Command is a line that a page has its reader type.
type Command struct {
	Line  int
	Text  string
	Shown string // what the page says it prints; "" for nothing said
}

// read returns a page's text. File is relative to the repository.
func read(file string) (string, error) {
	_, here, _, _ := runtime.Caller(0)
	b, err := os.ReadFile(filepath.Join(filepath.Dir(here), "../..", file))
	if err != nil {
		return "", fmt.Errorf("read page: %w", err)
	}
	return string(b), nil
}

// commands are those of a page.
func commands(text string) []Command {
	var out []Command
	var block strings.Builder
	inside, below := false, false // a block; the last command, with nothing between
	line := 0
	for l := range strings.Lines(text) {
		line++
		l = strings.TrimRight(l, "\n")
		c, indented := strings.CutPrefix(l, "    ")
		switch fence := strings.HasPrefix(l, "```"); {
		case fence && inside:
			if below {
				out[len(out)-1].Shown = block.String()
			}
			inside, below = false, false
		case fence:
			inside, below = true, below && l != "```yaml"
			block.Reset()
		case inside:
			block.WriteString(l + "\n")
		case indented && strings.TrimSpace(c) != "":
			out = append(out, Command{Line: line, Text: strings.TrimSpace(c)})
			below = true
		case l != "":
			below = false
		}
	}
	return out
}

var yamlBlock = regexp.MustCompile("(?ms)^```yaml\n(.*?)^```")

// Manifests are the objects that a page shows whole, ready to be applied.
func (p Page) Manifests() ([]string, error) {
	text, err := read(p.File)
	if err != nil {
		return nil, err
	}
	var out []string
	for _, m := range yamlBlock.FindAllStringSubmatch(text, -1) {
		if strings.HasPrefix(m[1], "apiVersion:") {
			out = append(out, m[1])
		}
	}
	return out, nil
}
