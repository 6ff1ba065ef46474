// SPDX-License-Identifier: Apache-2.0

package cni

import (
	"bytes"
	"context"
	"log/slog"
	"os"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	promtest "github.com/prometheus/client_golang/prometheus/testutil"

	"github.com/warren-mesh/warren/tests/testutil"
)

func TestNetworkPlugin(t *testing.T) {
	for in, want := range map[string]string{
		flannel: "flannel",
		`{"plugins":[{"type":"warren-cni"},{"type":"bridge"},{"type":"tuning"}]}`: "bridge",
		`{"plugins":[{"type":"warren-cni"}]}`:                                     "",
		`{"type":"macvlan","ipam":{"type":"host-local"}}`:                         "macvlan",
		`{"plugins":[{"type":"multus","delegates":[{"type":"bridge"}]}]}`:         "multus",
		flannel[:40]:       "",
		`{"plugins":[{}]}`: "",
	} {
		if got := networkPlugin([]byte(in)); got != want {
			t.Errorf("%q of %s, want %q", got, in, want)
		}
	}
}

func TestIsPlugin(t *testing.T) {
	r := newRig(t)
	// As on k3s: the agent has the directory, and not the one that the link leads to.
	if err := os.Symlink("/nowhere/bin/cni", r.bin("linked")); err != nil {
		t.Fatal(err)
	}
	if err := os.Mkdir(r.bin("directory"), 0o755); err != nil {
		t.Fatal(err)
	}
	for name, want := range map[string]bool{
		"flannel": true, "linked": true, "directory": false, "portmap": false, "../bin/flannel": false, "..": false,
	} {
		if got := isPlugin(r.BinDir, name); got != want {
			t.Errorf("%s: %v, want %v", name, got, want)
		}
	}
}

// watched is a keeper whose looks are the test's, with what it says.
type watched struct {
	*rig
	keeper keeper
	now    time.Time
	log    bytes.Buffer
}

func newWatched(t *testing.T) *watched {
	w := &watched{rig: newRig(t), now: time.Unix(1, 0)}
	w.keeper.Installer = w.rig.Installer
	w.keeper.Log = slog.New(slog.NewTextHandler(&w.log, nil))
	w.keeper.Installed = InstalledGauge(prometheus.NewRegistry())
	return w
}

// after looks once more, so much later.
func (w *watched) after(d time.Duration) {
	w.now = w.now.Add(d)
	w.keeper.look(w.now, nil)
}

// want is what the list, the metric and the log have to be like; said is how often the log says that it is not installed.
func (w *watched) want(when string, installed bool, chain string, said int) {
	w.t.Helper()
	got := w.chain("10-flannel.conflist")
	gauge := promtest.ToFloat64(w.keeper.Installed) == 1
	errs := strings.Count(w.log.String(), "level=ERROR")
	if gauge != installed || got != chain || errs != said {
		w.t.Errorf("%s: installed %v, chain %q, said %d times, want %v, %q, %d:\n%s", when, gauge, got, errs, installed, chain, said, w.log.String())
	}
}

func (w *watched) lose(plugin string) {
	w.t.Helper()
	if err := os.Remove(w.bin(plugin)); err != nil {
		w.t.Fatal(err)
	}
}

const withUs, withoutUs = "flannel portmap warren-cni", "flannel portmap"

// TestWrongBinDir: where the network's plugin is not, the runtime does not look, and an entry would stop every pod.
func TestWrongBinDir(t *testing.T) {
	w := newWatched(t)
	w.lose("flannel")
	w.write(w.conf("10-flannel.conflist"), flannel)
	w.after(0)
	w.want("a directory without the network's plugin", false, withoutUs, 1)
	w.after(time.Hour)
	w.want("an hour later", false, withoutUs, 1)
	for _, part := range []string{w.conf("10-flannel.conflist"), "flannel, which is not in " + w.BinDir, "node.cniBinDir", "--cni-bin-dir"} {
		if !strings.Contains(w.log.String(), part) {
			t.Errorf("nothing about %q in the log:\n%s", part, w.log.String())
		}
	}
	w.write(w.bin("flannel"), "binary")
	w.after(0)
	w.want("when it comes", true, withUs, 1)
	if !strings.Contains(w.log.String(), "CNI plugin is installed") {
		t.Errorf("nothing about it in the log:\n%s", w.log.String())
	}
}

// TestNetworkPluginGoes: an upgrade of the network may remove its plugin before it writes the new one.
func TestNetworkPluginGoes(t *testing.T) {
	w := newWatched(t)
	w.write(w.conf("10-flannel.conflist"), flannel)
	w.after(0)
	w.want("at first", true, withUs, 0)
	for n := range 3 {
		w.lose("flannel")
		w.after(0)
		w.after(patience - time.Second)
		w.want("for a moment it is away", false, withUs, n+1)
		w.write(w.bin("flannel"), "binary")
		w.after(0)
		w.want("it is back", true, withUs, n+1)
	}
	w.lose("flannel")
	w.after(0)
	w.after(patience)
	w.want("it is away", false, withoutUs, 4)
	if got := w.read(w.conf("10-flannel.conflist")); got != flannel {
		t.Errorf("not as its owner wrote it:\n%s", got)
	}
	w.write(w.bin("flannel"), "binary")
	w.after(0)
	w.want("it has come back", true, withUs, 4)
}

// TestOnlyTheNewestAgentWithdraws: the old one may have been told the wrong directory, the new one the right one.
func TestOnlyTheNewestAgentWithdraws(t *testing.T) {
	w := newWatched(t)
	w.write(w.conf("10-flannel.conflist"), flannel)
	w.after(0)
	w.keeper.Newest = func() bool { return false }
	w.lose("flannel")
	w.after(0)
	w.after(time.Hour)
	w.want("the old agent", false, withUs, 1)
	w.keeper.Newest = func() bool { return true }
	w.after(0)
	w.want("the new agent", false, withoutUs, 1)
}

// TestWrongBinDirOfASingleConfiguration: the list made of it goes.
func TestWrongBinDirOfASingleConfiguration(t *testing.T) {
	w := newWatched(t)
	w.write(w.conf("10-bridge.conf"), `{"cniVersion":"0.4.0","name":"bridge","type":"bridge"}`)
	w.after(0)
	if c := w.chain(ownList); c != "bridge warren-cni" {
		t.Fatalf("chain: %s", c)
	}
	w.lose("bridge")
	w.after(0)
	w.after(patience)
	if strings.Contains(w.files(), ownList) {
		t.Errorf("it is left: %s", w.files())
	}
}

// TestWaitingDoesNotTire: however long the network takes to come, its first pod is to be captured.
func TestWaitingDoesNotTire(t *testing.T) {
	w := newWatched(t)
	wait := func(what string) {
		t.Helper()
		for range 12 {
			w.after(lookAgain)
		}
		if p := w.keeper.pace.pause(); p != quiet {
			t.Errorf("waiting for %s: a pause of %v before the next look", what, p)
		}
	}
	wait("a network")
	w.write(w.conf("10-flannel.conflist"), flannel)
	w.lose("flannel")
	wait("its plugin")
}

// TestTheSameErrorIsSaidOnce: the temporary file that could not be made has another name each time.
func TestTheSameErrorIsSaidOnce(t *testing.T) {
	w := newWatched(t)
	w.write(w.conf("10-flannel.conflist"), flannel)
	if err := os.RemoveAll(w.BinDir); err != nil {
		t.Fatal(err)
	}
	for range 3 {
		w.after(lookAgain)
	}
	w.want("a directory that is gone", false, withoutUs, 1)
}

// TestRunWaitsForTheNetworksPlugin: it needs nobody to look again.
func TestRunWaitsForTheNetworksPlugin(t *testing.T) {
	r := newRig(t)
	installed := InstalledGauge(prometheus.NewRegistry())
	r.Installed = installed
	installed.Set(-1)
	if err := os.Remove(r.bin("flannel")); err != nil {
		t.Fatal(err)
	}
	r.write(r.conf("10-flannel.conflist"), flannel)
	ctx, cancel := context.WithCancel(t.Context())
	var wg sync.WaitGroup
	wg.Go(func() {
		if err := r.Run(ctx); err != nil {
			t.Error(err)
		}
	})
	defer wg.Wait()
	defer cancel()
	testutil.Eventually(t, 4*time.Second, "it looked", func() bool { return promtest.ToFloat64(installed) == 0 })
	if c := r.chain("10-flannel.conflist"); c != withoutUs {
		t.Errorf("chain: %s", c)
	}
	r.write(r.bin("flannel"), "binary")
	testutil.Eventually(t, 4*time.Second, "chained when the plugin comes", func() bool { return r.chain("10-flannel.conflist") == withUs })
}
