// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/warren-mesh/warren/deploy/install"
)

// TestUpgrade installs Warren over itself, with another image and other values and back, under load. Both DaemonSets roll
// at the same time, so that old and new parts meet in every combination; and meanwhile somebody else takes Warren's entry
// out of a node's network configuration again and again, which old and new agent repair. Installed once more without values,
// it stays as it is.
func TestUpgrade(t *testing.T) {
	m := Alone(t)
	b := newBusy(t, m)
	b.drain(t, shortDrain)
	was := m.image(t)
	repository, _, _ := strings.Cut(was, ":")
	other, err := install.BuildImage(t.Context(), install.BuildOptions{Ref: repository + ":next", Progress: os.Stderr})
	if err != nil {
		t.Fatal(err)
	}
	if err := m.LoadArchive(t.Context(), other.Archive); err != nil {
		t.Fatal(err)
	}
	for _, tt := range []struct {
		name, image, deadline string
		values                map[string]any
	}{
		{"to another image and values", other.Ref, "20s", map[string]any{"logLevel": "debug", "node": map[string]any{"cniDeadline": "20s"}}},
		{"and back", was, "15s", map[string]any{}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			parts := []*rollout{newRollout(t, m, nodeName), newRollout(t, m, ztunnelName), newRollout(t, m, controlName)}
			wire, load := b.Wire(t), b.load(t)
			began := time.Now()
			installed := make(chan error, 1)
			go func() {
				installed <- install.Install(t.Context(), install.Options{Config: m.Config(), Image: tt.image, Values: tt.values, Progress: os.Stderr})
			}()
			rewritten := m.rewriteNetwork(t, b.client.Node)
			Eventually(t, 2*time.Minute, "all parts are rolled out", func() (missing string) {
				for _, r := range parts {
					if why := r.look(); why != "" {
						missing = r.name + ": " + why
					}
				}
				return missing
			})
			if err := <-installed; err != nil {
				t.Fatal(err)
			}
			took := time.Since(began)
			n := rewritten()
			fresh, held := load.stop()
			wire.Stop()
			t.Logf("upgraded in %v; %d new connections, longest silence %v; the entry was taken out %d times", took.Round(time.Millisecond), fresh.OK, fresh.Longest.Round(time.Millisecond), n)
			checkFresh(t, fresh)
			checkHeld(t, held, 2)
			for _, r := range parts[:2] {
				r.checkSideBySide()
			}
			for _, f := range held.Failures {
				parts[1].checkDrained(f.At.Add(f.Took))
			}
			b.checkWire(t, wire)
			m.reinstall(t, tt.image)
			for _, node := range m.Nodes() {
				Eventually(t, 15*time.Second, "the entry on "+node+" is the new agent's", func() string {
					if e := m.networkEntry(t, node); e.Deadline != tt.deadline {
						return fmt.Sprintf("%+v, want the deadline %s", e, tt.deadline)
					}
					return ""
				})
			}
		})
	}
}

// reinstall installs the image that runs, without values. Nothing is rolled out for it.
func (m *Mesh) reinstall(t *testing.T, image string) {
	t.Helper()
	before := m.generations(t)
	if err := install.Install(t.Context(), install.Options{Config: m.Config(), Image: image, Progress: os.Stderr}); err != nil {
		t.Fatal(err)
	}
	if after := m.generations(t); after != before {
		t.Errorf("installed again, what the parts are to be has changed: generations %v, before %v", after, before)
	}
}

// generations count how often the parts were changed.
func (m *Mesh) generations(t *testing.T) (out [3]int64) {
	t.Helper()
	apps := m.Client().AppsV1()
	node, err1 := apps.DaemonSets(system).Get(t.Context(), nodeName, metav1.GetOptions{})
	ztunnel, err2 := apps.DaemonSets(system).Get(t.Context(), ztunnelName, metav1.GetOptions{})
	control, err3 := apps.Deployments(system).Get(t.Context(), controlName, metav1.GetOptions{})
	if err := errors.Join(err1, err2, err3); err != nil {
		t.Fatal(err)
	}
	return [3]int64{node.Generation, ztunnel.Generation, control.Generation}
}

// networkFile is a node's network configuration, by a path that works here.
func (m *Mesh) networkFile(t *testing.T, node string) string {
	t.Helper()
	pid, err := m.PID(node)
	if err != nil {
		t.Fatal(err)
	}
	files, err := filepath.Glob(fmt.Sprintf("/proc/%d/root/etc/cni/net.d/*.conflist", pid))
	if err != nil || len(files) != 1 {
		t.Fatalf("network configurations of %s: %v, %v", node, files, err)
	}
	return files[0]
}

type networkPlugin struct{ Type, Deadline string }

// networkEntry is Warren's in a node's network configuration; zero: there is none.
func (m *Mesh) networkEntry(t *testing.T, node string) networkPlugin {
	t.Helper()
	b, err := os.ReadFile(m.networkFile(t, node))
	var list struct{ Plugins []networkPlugin }
	if err == nil {
		err = json.Unmarshal(b, &list)
	}
	if err != nil {
		t.Fatal(err)
	}
	for _, p := range list.Plugins {
		if p.Type == "warren-cni" {
			return p
		}
	}
	return networkPlugin{}
}

// rewriteNetwork takes Warren's entry out of a node's network configuration whenever it is there, until the function it
// returns is called, which says how often.
func (m *Mesh) rewriteNetwork(t *testing.T, node string) (stop func() int) {
	t.Helper()
	path := m.networkFile(t, node)
	b, err := os.ReadFile(path)
	var list map[string]any
	if err == nil {
		err = json.Unmarshal(b, &list)
	}
	if err != nil {
		t.Fatal(err)
	}
	var others []any
	for _, p := range list["plugins"].([]any) {
		if p.(map[string]any)["type"] != "warren-cni" {
			others = append(others, p)
		}
	}
	list["plugins"] = others
	without, err := json.Marshal(list)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	times := make(chan int, 1)
	go func() {
		n := 0
		defer func() { times <- n }()
		for {
			select {
			case <-ctx.Done():
				return
			case <-time.After(1500 * time.Millisecond): // an owner with less patience is met with more
			}
			fresh := filepath.Join(filepath.Dir(path), ".owner.tmp")
			if err := os.WriteFile(fresh, without, 0o600); err != nil {
				t.Error(err)
			}
			if err := os.Rename(fresh, path); err != nil {
				t.Error(err)
			}
			n++
		}
	}()
	return func() int { cancel(); return <-times }
}
