// SPDX-License-Identifier: Apache-2.0

package agent

import (
	"context"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/warren-mesh/warren/agent/cni"
	"github.com/warren-mesh/warren/mesh"
	"github.com/warren-mesh/warren/mesh/broker"
	protocol "github.com/warren-mesh/warren/mesh/cni"
	"github.com/warren-mesh/warren/tests/testutil"
)

// unsynced is an agent whose objects never come, on a node with a network that has no entry; list is that network's file.
func unsynced(t *testing.T) (a *Agent, list string) {
	t.Helper()
	dir := t.TempDir()
	sub := func(name string) string { return filepath.Join(dir, name) }
	for _, d := range []string{"run", "state", "bin", "net.d"} {
		if err := os.Mkdir(sub(d), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	list = sub("net.d/10-pods.conflist")
	for path, content := range map[string]string{
		sub("bin/ptp"): "binary", sub("warren-cni"): "binary", list: `{"cniVersion":"1.0.0","name":"pods","plugins":[{"type":"ptp"}]}`,
	} {
		if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	log := slog.New(slog.DiscardHandler)
	a, err := New(Config{
		Node: "n", RunDir: sub("run"), StateDir: sub("state"), Log: log,
		Install: cni.Installer{BinDir: sub("bin"), ConfDir: sub("net.d"), Plugin: sub("warren-cni"), Entry: cni.Entry{Deadline: time.Second}, Log: log},
	}, &objects{changed: make(chan struct{})}, &page{last: map[mesh.Name]string{}})
	if err != nil {
		t.Fatal(err)
	}
	return a, list
}

func (a *Agent) leaveNamespaces(t *testing.T) {
	t.Helper()
	if err := protocol.WriteNamespaces(a.cfg.StateDir, protocol.Namespaces{Enrolled: []string{"shop"}}); err != nil {
		t.Fatal(err)
	}
}

// TestInstallsBeforeItKnowsTheObjects: on a node that reboots, the network's owner writes its configuration anew, and pods of
// the mesh are not to start before the API server has answered the agent.
func TestInstallsBeforeItKnowsTheObjects(t *testing.T) {
	a, list := unsynced(t)
	a.leaveNamespaces(t)
	ctx, cancel := context.WithCancel(t.Context())
	var wg sync.WaitGroup
	wg.Go(func() {
		if err := a.Run(ctx); err != nil {
			t.Error(err)
		}
	})
	defer wg.Wait()
	defer cancel()
	testutil.Eventually(t, 4*time.Second, "the plugin is installed", func() bool {
		b, err := os.ReadFile(list)
		return err == nil && strings.Contains(string(b), protocol.PluginName)
	})
}

// TestInstallsNothingThatWouldStopEveryPod: on a new node nobody could say which pods need not wait.
func TestInstallsNothingThatWouldStopEveryPod(t *testing.T) {
	a, _ := unsynced(t)
	over, cancel := context.WithCancel(t.Context())
	cancel()
	if a.waitToInstall(over) == nil {
		t.Error("without a cache it does not wait")
	}
	if err := os.WriteFile(filepath.Join(a.cfg.StateDir, "namespaces.json"), []byte(`{"version":1,`), 0o600); err != nil {
		t.Fatal(err)
	}
	if a.waitToInstall(over) == nil {
		t.Error("with a damaged cache it does not wait")
	}
	a.leaveNamespaces(t)
	if err := a.waitToInstall(over); err != nil {
		t.Errorf("with a cache: %v", err)
	}
	a, _ = unsynced(t)
	a.pluginSocket = "socket"
	if a.socket() != "" {
		t.Error("a socket before it serves")
	}
	close(a.serving)
	if err := a.waitToInstall(t.Context()); err != nil || a.socket() != "socket" {
		t.Errorf("once it serves: %v, %q", err, a.socket())
	}
}

// TestAnAgentThatServesNotYetIsNotTheNewest: beside another one it only puts in what is missing.
func TestAnAgentThatServesNotYetIsNotTheNewest(t *testing.T) {
	a, _ := unsynced(t)
	if !newest(a.cfg.RunDir, a.socket()) {
		t.Error("alone, and not the newest")
	}
	l, err := cni.Listen(filepath.Join(a.cfg.RunDir, broker.SocketName("agent", "1", protocol.SocketPart)))
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	if newest(a.cfg.RunDir, a.socket()) {
		t.Error("beside one that serves, it takes itself for the newest")
	}
}
