// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"context"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/warren-mesh/warren/tests/cluster"
	"github.com/warren-mesh/warren/tests/e2e/demo"
	"github.com/warren-mesh/warren/tests/page"
)

// demoWanted are lines of the demo's report, as regular expressions.
var demoWanted = []string{
	`status +shop/web +node n1  captured: nothing published`,
	`status +shop/web +node n1  captured: true`,
	`log n1 +legacy -> web +1 connection .* INBOUND_PLAINTEXT`,
	`log n1 +shopper -> web +3 connections .* SAME_NODE`,
	`log n2 +spiffe://cluster\.local/ns/shop/sa/web -> spiffe://cluster\.local/ns/shop/sa/cart`,
	`log n1 +REFUSED: .*PeerAuthentication STRICT`,
	`All \d+ checks of what was read hold\.`,
}

// TestDemo is a user of a cluster with Warren on it, who runs the demo there, tries the commands it prints and those of the
// documentation, and removes it.
func TestDemo(t *testing.T) {
	m := SharedForLong(t)
	if err := demo.WithShop(t.Context(), "", shopImage, func(i cluster.Image) error { return m.LoadImage(t.Context(), i) }); err != nil {
		t.Fatal(err)
	}
	// Health checks of captured pods, which a page counts.
	m.Namespace(t, "checked", Enrolled()).Deploy(App{Name: "checked", Node: m.Nodes()[0]})
	program := filepath.Join(t.TempDir(), "warren-demo")
	if out, err := exec.CommandContext(t.Context(), "go", "build", "-o", program, "./cmd/warren-demo").CombinedOutput(); err != nil {
		t.Fatalf("build: %v\n%s", err, out)
	}
	kubectl := m.Kubectl(t.Context())
	run := func(verb string) (string, error) {
		ctx, cancel := context.WithTimeout(context.Background(), 3*time.Minute) // down runs after the test's own has ended
		defer cancel()
		cmd := exec.CommandContext(ctx, program, "--kubeconfig", m.Kubeconfig(), "--shop-image", shopImage, "--kubectl", strings.Join(kubectl.Args, " ")+" --kubeconfig "+m.Kubeconfig(), verb)
		out, err := cmd.CombinedOutput()
		return string(out), err
	}
	t.Cleanup(func() {
		if out, err := run("down"); err != nil || !strings.Contains(out, "nothing is left of the demo") {
			t.Errorf("down: %v\n%s", err, out)
		}
	})
	report, err := run("up")
	if err != nil {
		t.Fatalf("up: %v\n%s", err, report)
	}
	for _, w := range demoWanted {
		if !regexp.MustCompile(`(?m)^ *` + w).MatchString(report) {
			t.Errorf("no line %q in:\n%s", w, report)
		}
	}
	t.Run("commands", func(t *testing.T) { triesDemo(t, report) })
	t.Run("pages", func(t *testing.T) { followPages(t, m, page.Cluster) })
}

// triesDemo runs every command of the report, and knows what each should show.
func triesDemo(t *testing.T, report string) {
	tests := []struct {
		part, shows string
		fails       bool
	}{
		{part: "custom-columns", shows: "true"},
		{part: "get pods -o wide", shows: "warren-node"},
		{part: "--tail 20", shows: "access connection complete"},
		{part: "explain", shows: "STRICT_MTLS"},
		{part: "workloads", shows: "shop"},
		{part: "exec legacy", shows: "connection reset by peer", fails: true},
		{part: "logs -n shop", shows: "orders: "},
	}
	commands := regexp.MustCompile(`(?m)^  # .*\n  (.*)$`).FindAllStringSubmatch(report, -1)
	if len(commands) != len(tests) {
		t.Fatalf("%d commands printed, %d known:\n%s", len(commands), len(tests), report)
	}
	for i, tt := range tests {
		Eventually(t, 20*time.Second, commands[i][1], func() string {
			cmd := exec.CommandContext(t.Context(), "sh", "-c", commands[i][1])
			cmd.Env = os.Environ()
			out, err := cmd.CombinedOutput()
			if !strings.Contains(commands[i][1], tt.part) || (err != nil) != tt.fails || !strings.Contains(string(out), tt.shows) {
				return string(out)
			}
			return ""
		})
	}
}
