// SPDX-License-Identifier: Apache-2.0

package demo_test

import (
	"context"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/warren-mesh/warren/tests/netns"
	"github.com/warren-mesh/warren/tests/testutil"
)

// user is somebody with a terminal in the repository's root.
type user struct {
	t    *testing.T
	root string
	env  []string
}

// newUser builds what `make build` does, and gives the demo a directory for temporary files of its own, so that a
// demo of the developer's is left alone.
func newUser(t *testing.T) *user {
	bin, err := netns.Binaries()
	if err != nil {
		t.Fatal(err)
	}
	root, err := filepath.Abs("../../..")
	if err != nil {
		t.Fatal(err)
	}
	// Not t.TempDir: Warren's processes have users of their own and must get in.
	tmp, err := os.MkdirTemp("", "demo")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(tmp) })
	if err := os.Chmod(tmp, 0o755); err != nil {
		t.Fatal(err)
	}
	u := &user{t: t, root: root, env: append(os.Environ(), "TMPDIR="+tmp)}
	if bin == filepath.Join(root, "build", "bin") {
		build := exec.Command("go", "build", "-o", bin+"/", "./deploy/samples/shop", "./tests/netns/cmd/warren-netns", "./cmd/warrenctl")
		build.Dir, build.Env = root, append(os.Environ(), "CGO_ENABLED=0")
		if out, err := build.CombinedOutput(); err != nil {
			t.Fatalf("build: %v\n%s", err, out)
		}
	}
	return u
}

// types runs a line in a shell, with what is typed into it, for some time at most. It is not bound to the test's
// context, which has ended when a test is cleaned up.
func (u *user) types(line, input string, limit time.Duration) (string, error) {
	ctx, cancel := context.WithTimeout(context.Background(), limit)
	defer cancel()
	cmd := exec.CommandContext(ctx, "sh", "-c", "exec "+line)
	cmd.Dir, cmd.Env, cmd.Stdin = u.root, u.env, strings.NewReader(input)
	cmd.WaitDelay = time.Second
	out, err := cmd.CombinedOutput()
	return string(out), err
}

// wanted are lines of the report, as regular expressions.
var wanted = []string{
	`status +shop/web +node a  captured: nothing published`,
	`wire +web -> cart:8080 +4 connections .* PLAINTEXT; shopper's card readable in 3`,
	`wire +the shopper's card number, [0-9-]+, is readable in 9 connections`,
	`status +shop/web +node a  captured: true`,
	`log a +spiffe://cluster\.local/ns/shop/sa/shopper -> spiffe://cluster\.local/ns/shop/sa/web`,
	`log b +web -> cart +4 connections +624 B in +696 B out +TUNNEL`,
	`log a +legacy -> web +1 connection .* INBOUND_PLAINTEXT`,
	`log a +shopper -> web +3 connections .* decided SAME_NODE for web\.shop\.svc\.cluster\.local`,
	`metrics b +web -> orders +4 connections .* encrypted: mutual_tls`,
	`metrics a +legacy -> web +1 connection .* NOT encrypted`,
	`wire +web -> orders:15008 +\d connections? .* TLS, nothing but its records \(\d+\)`,
	`wire +the shopper's card number, [0-9-]+, is readable in 0 connections`,
	`log a +REFUSED: .*PeerAuthentication STRICT.* \(policy warren-system/istio_converted_static_strict\)`,
	`metrics a +legacy -> web +\d connections? +REFUSED, response_flags DENY`,
	`metrics a +STRICT_MTLS +[12] connections?`,
	`kernel a +CAPTURED_OUTBOUND +\d+`,
	`wire +legacy -> web:8080 +[12] connections? .* 0 B back`,
	`All \d+ checks of what was read hold\.`,
}

// TestDemo is a user who runs the demo, reads the report, tries every command it prints, runs it again, and stops it.
func TestDemo(t *testing.T) {
	testutil.Privileged(t)
	u := newUser(t)
	t.Cleanup(func() { _, _ = u.types("build/bin/warren-netns down", "", time.Minute) })
	report, err := u.types("build/bin/warren-netns demo", "", time.Minute)
	if err != nil {
		t.Fatalf("%v\n%s", err, report)
	}
	for _, w := range wanted {
		if !regexp.MustCompile(`(?m)^ *` + w).MatchString(report) {
			t.Errorf("no line %q", w)
		}
	}
	everyLineHasASource(t, report)
	if t.Failed() {
		t.Logf("the report:\n%s", report)
	}
	t.Run("commands", func(t *testing.T) { u.tries(t, report) })
	t.Run("again", func(t *testing.T) {
		out, err := u.types("build/bin/warren-netns demo", "", time.Minute)
		if err != nil || !strings.Contains(out, "one is up already") || !strings.Contains(out, "down; nothing is left") {
			t.Errorf("%v\n%s", err, out)
		}
	})
	t.Run("down", func(t *testing.T) { u.stops(t) })
}

// everyLineHasASource looks at what stands between the parts' titles.
func everyLineHasASource(t *testing.T, report string) {
	_, rest, _ := strings.Cut(report, "1. Before:")
	body, _, _ := strings.Cut(rest, "checks of what was read hold")
	source := regexp.MustCompile(`^  (status   |wire     |log [ab]    |metrics [ab]|kernel [ab] ) `)
	progress := regexp.MustCompile(`^ *\d+\.\ds  |^[123]\. |^All \d+ $`)
	for line := range strings.Lines(body) {
		line = strings.TrimSuffix(line, "\n")
		if line != "" && !source.MatchString(line) && !progress.MatchString(line) && !strings.HasPrefix(line, " the namespace") {
			t.Errorf("a line that names no source: %q", line)
		}
	}
}

// tries runs every command of the report, and knows what each should show.
func (u *user) tries(t *testing.T, report string) {
	tests := []struct {
		part, input, shows string
		fails              bool
	}{
		{part: "warren-netns status", shows: "shop/web"},
		{part: "/debug/pods", shows: `"state": "captured"`},
		{part: "/debug/bpf", shows: "CAPTURED_OUTBOUND"},
		{part: "/metrics", shows: `reason="STRICT_MTLS"`},
		{part: "/config_dump", shows: "spiffe://cluster.local/ns/shop/sa/cart"},
		{part: "warren-netns wire", shows: "-> cart:15008"},
		{part: "tail -n 20 -f", shows: "access connection complete", fails: true}, // it is stopped
		{part: "-- sh", input: "hostname; cat /etc/hosts\n", shows: "inventory.shop"},
		{part: "exec legacy", shows: "connection reset by peer", fails: true},
		{part: "ls ", shows: "peerauthentication-shop-default.yaml"},
	}
	commands := regexp.MustCompile(`(?m)^  # .*\n  (.*)$`).FindAllStringSubmatch(report, -1)
	if len(commands) != len(tests) {
		t.Errorf("%d commands printed, %d known", len(commands), len(tests))
	}
	for i, tt := range tests {
		t.Run(tt.part, func(t *testing.T) {
			if i >= len(commands) || !strings.Contains(commands[i][1], tt.part) {
				t.Fatalf("not printed in this place: %q", commands)
			}
			limit := 20 * time.Second
			if strings.Contains(tt.part, "tail") {
				limit = time.Second
			}
			out, err := u.types(commands[i][1], tt.input, limit)
			if (err != nil) != tt.fails || !strings.Contains(out, tt.shows) {
				t.Errorf("%s: %v, want %q in:\n%s", commands[i][1], err, tt.shows, out)
			}
		})
	}
}

// stops takes the demo down and looks for what it left.
func (u *user) stops(t *testing.T) {
	out, err := u.types("build/bin/warren-netns down", "", time.Minute)
	if err != nil || !strings.Contains(out, "down; nothing is left") {
		t.Errorf("down: %v\n%s", err, out)
	}
	for _, e := range u.env {
		if tmp, ok := strings.CutPrefix(e, "TMPDIR="); ok {
			if left, _ := filepath.Glob(filepath.Join(tmp, "*")); len(left) > 0 && tmp != os.TempDir() {
				t.Errorf("files left: %v", left)
			}
		}
	}
	if out, err := u.types("build/bin/warren-netns status", "", time.Minute); err == nil {
		t.Errorf("something is still up:\n%s", out)
	}
}
