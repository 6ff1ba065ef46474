// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"context"
	"maps"
	"os"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/warren-mesh/warren/deploy/install"
)

// TestWrongPluginDirectory upgrades to values that name another directory than the runtime's for plugins: pods start as before,
// Warren's own ones too, and what is wrong is told. Then the value is set right again.
func TestWrongPluginDirectory(t *testing.T) {
	const missing, empty = "/opt/warren-missing", "/opt/warren-empty"
	m := Alone(t)
	image := m.image(t)
	upgrade := func(ctx context.Context, binDir string) error {
		values := map[string]any{"node": map[string]any{"cniBinDir": binDir}}
		return install.Install(ctx, install.Options{Config: m.Config(), Image: image, Values: values, Timeout: 2 * time.Minute, Progress: os.Stderr})
	}
	onNodes := func(script string) (out string) {
		for _, node := range m.Nodes() {
			got, err := m.NodeShell(context.Background(), node, "sh", "-c", script)
			if err != nil {
				t.Errorf("%s on %s: %v", script, node, err)
			}
			out += got
		}
		return out
	}
	back := sync.OnceFunc(func() {
		values := map[string]any{} // none at all would leave them as they are
		maps.Copy(values, m.values)
		if err := install.Install(context.Background(), install.Options{Config: m.Config(), Image: image, Values: values, Progress: os.Stderr}); err != nil {
			t.Error(err)
		}
		onNodes("rm -rf " + empty)
	})
	t.Cleanup(back)
	ns, out := m.Namespace(t, "plugindir", Enrolled()), m.Namespace(t, "outside")
	start := func(name string) {
		t.Helper()
		for _, node := range m.Nodes() {
			ns.Deploy(App{Name: name + "-" + node, Node: node})
			out.Deploy(App{Name: name + "-" + node, Node: node})
		}
	}

	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	installed := make(chan error, 1)
	go func() { installed <- upgrade(ctx, missing) }()
	events := &Namespace{t: t, mesh: m, Name: system}
	t.Log(events.event(t, nodeName, "FailedMount", "hostPath type check failed: "+missing))
	start("missing")
	cancel()
	if err := <-installed; err == nil {
		t.Errorf("%s is not there, and the upgrade is done", missing)
	}
	if made := onNodes("ls -d " + missing + " 2>/dev/null || true"); made != "" {
		t.Errorf("the directory was made: %s", made)
	}
	for _, node := range m.Nodes() {
		waitInstalled(t, m, node, true) // by the agents that are still there
	}

	onNodes("mkdir " + empty)
	if err := upgrade(t.Context(), empty); err != nil {
		t.Fatal(err)
	}
	for _, node := range m.Nodes() {
		waitInstalled(t, m, node, false)
		log := m.Agent(t, node).Log()
		if want := "which is not in " + empty; !strings.Contains(log, want) || !strings.Contains(log, "node.cniBinDir") {
			t.Errorf("the agent's log on %s says nothing about %q:\n%s", node, want, log)
		}
	}
	start("empty")

	back()
	for _, node := range m.Nodes() {
		waitInstalled(t, m, node, true)
	}
}

// waitInstalled waits until the plugin is installed on a node, or is not, and the node's agent says so.
func waitInstalled(t *testing.T, m *Mesh, node string, want bool) {
	t.Helper()
	metric := map[bool]string{true: "\nwarren_cni_installed 1\n", false: "\nwarren_cni_installed 0\n"}[want]
	Eventually(t, 30*time.Second, "the entry is as it should be on "+node, func() string {
		if has := m.networkEntry(t, node) != (networkPlugin{}); has != want {
			return map[bool]string{true: "it is there", false: "it is not there"}[has]
		}
		if metrics := m.Agent(t, node).Metrics(); !strings.Contains(metrics, metric) {
			return "the metric is another one"
		}
		return ""
	})
}
