// SPDX-License-Identifier: Apache-2.0

package demo_test

import (
	"fmt"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/warren-mesh/warren/tests/testutil"
)

// commandsOf are a page's commands: the lines that are indented and stand in no block.
func commandsOf(t *testing.T, page string) (out []string) {
	t.Helper()
	b, err := os.ReadFile(page)
	if err != nil {
		t.Fatal(err)
	}
	block := false
	for line := range strings.Lines(string(b)) {
		if strings.HasPrefix(line, "```") {
			block = !block
		}
		if c, ok := strings.CutPrefix(line, "    "); ok && !block {
			out = append(out, strings.TrimSpace(c))
		}
	}
	return out
}

// TestAuthorizationPage is a user who types every command of docs/authorization.md into the demo.
func TestAuthorizationPage(t *testing.T) {
	testutil.Privileged(t)
	u := newUser(t)
	t.Cleanup(func() { u.stops(t) })
	if out, err := u.types("build/bin/warren-netns demo", "", time.Minute); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	u.follows("../../../docs/authorization.md", []step{
		{part: "DIR="}, {part: "LOGS="}, {part: "cp deploy"},
		{part: "shop buy", shows: "queued"},
		{part: "get shop/web", shows: "connection reset by peer", fails: true},
		{part: "grep POLICY_NO_ALLOW", shows: "policy=shop/inventory-callers"},
		{part: "rm $DIR"}, {part: "cp deploy"},
		{part: "cat $DIR", shows: "spec.rules[0].to[0].operation.methods"},
	})
}

// step is a command of a page: part of it, and what it shows.
type step struct {
	part, shows string
	fails       bool
}

// follows types every command of a page.
func (u *user) follows(page string, steps []step) {
	commands := commandsOf(u.t, page)
	if len(commands) != len(steps) {
		u.t.Fatalf("the page has %d commands, %d are known: %q", len(commands), len(steps), commands)
	}
	before := ""
	for i, s := range steps {
		u.t.Run(fmt.Sprint(i, " ", s.part), func(t *testing.T) {
			if !strings.Contains(commands[i], s.part) {
				t.Fatalf("the command is %q", commands[i])
			}
			if strings.Contains(commands[i], "=$(") {
				before += commands[i] + "; "
				return
			}
			var out string
			var err error
			defer func() {
				if t.Failed() {
					t.Logf("%v, want %q in:\n%s", err, s.shows, out)
				}
			}()
			testutil.Eventually(t, 20*time.Second, commands[i], func() bool {
				out, err = u.types("sh", before+commands[i]+"\n", 20*time.Second)
				return (err != nil) == s.fails && strings.Contains(out, s.shows)
			})
		})
	}
}
