// SPDX-License-Identifier: Apache-2.0

package cni

import (
	"context"
	"encoding/json"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/warren-mesh/warren/tests/testutil"
)

const flannel = "{\n  \"name\": \"cbr0\",\n  \"cniVersion\": \"0.3.1\",\n  \"plugins\": [\n    {\"type\": \"flannel\"},\n    {\"type\": \"portmap\"}\n  ]\n}\n"

// rig is a node's directories and an installer for them.
type rig struct {
	t *testing.T
	Installer
}

func newRig(t *testing.T) *rig {
	dir := t.TempDir()
	r := &rig{t: t, Installer: Installer{
		BinDir: filepath.Join(dir, "bin"), ConfDir: filepath.Join(dir, "net.d"), Plugin: filepath.Join(dir, "warren-cni"),
		Entry: Entry{Deadline: time.Second}, Log: slog.New(slog.DiscardHandler),
	}}
	for _, d := range []string{r.BinDir, r.ConfDir} {
		if err := os.Mkdir(d, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	r.write(r.Plugin, "binary 1")
	for _, network := range []string{"flannel", "calico", "bridge"} {
		r.write(r.bin(network), "binary")
	}
	return r
}

func (r *rig) write(path, content string) {
	r.t.Helper()
	if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
		r.t.Fatal(err)
	}
}

func (r *rig) conf(name string) string { return filepath.Join(r.ConfDir, name) }

func (r *rig) bin(name string) string { return filepath.Join(r.BinDir, name) }

func (r *rig) read(path string) string {
	b, err := os.ReadFile(path)
	if err != nil {
		r.t.Fatal(err)
	}
	return string(b)
}

// chain names the plugins of a list.
func (r *rig) chain(name string) string {
	b, err := os.ReadFile(r.conf(name))
	if err != nil {
		return ""
	}
	var l struct {
		Plugins []struct{ Type string }
	}
	_ = json.Unmarshal(b, &l)
	var types []string
	for _, p := range l.Plugins {
		types = append(types, p.Type)
	}
	return strings.Join(types, " ")
}

func (r *rig) files() string {
	var names []string
	for _, d := range []string{r.BinDir, r.ConfDir} {
		es, err := os.ReadDir(d)
		if err != nil {
			r.t.Fatal(err)
		}
		for _, e := range es {
			names = append(names, e.Name())
		}
	}
	return strings.Join(names, " ")
}

func (r *rig) install() {
	r.t.Helper()
	if err := r.Install(); err != nil {
		r.t.Fatal(err)
	}
}

func (r *rig) remove() {
	r.t.Helper()
	if err := Remove(r.BinDir, r.ConfDir, r.Log); err != nil {
		r.t.Fatal(err)
	}
}

func TestInstallAndRemoveLeaveWhatWas(t *testing.T) {
	r := newRig(t)
	other := `{"name":"other","plugins":[{"type":"bridge"}]}`
	r.write(r.conf("10-flannel.conflist"), flannel)
	r.write(r.conf("20-other.conflist"), other)
	r.write(r.conf("99-loopback.conf"), `{"type":"loopback"}`)
	r.write(r.conf("README"), "no configuration")
	if err := os.Chmod(r.conf("10-flannel.conflist"), 0o640); err != nil {
		t.Fatal(err)
	}
	before := r.files()
	for range 2 {
		r.install()
		if c := r.chain("10-flannel.conflist"); c != "flannel portmap warren-cni" {
			t.Errorf("chain: %s", c)
		}
	}
	if got := r.read(r.conf("20-other.conflist")); got != other {
		t.Errorf("not the runtime's, and changed: %s", got)
	}
	st, err := os.Stat(r.bin("warren-cni"))
	if err != nil || st.Mode().Perm() != 0o755 || r.read(r.bin("warren-cni")) != "binary 1" {
		t.Errorf("binary: %v %v", st, err)
	}
	if st, _ := os.Stat(r.conf("10-flannel.conflist")); st.Mode().Perm() != 0o640 {
		t.Errorf("the list's mode became %v", st.Mode())
	}
	for range 2 {
		r.remove()
		if got := r.read(r.conf("10-flannel.conflist")); got != flannel {
			t.Errorf("after removal:\n%s", got)
		}
	}
	if got := r.files(); got != before {
		t.Errorf("files: %s, before %s", got, before)
	}
}

func TestInstallUpdatesBinaryAndEntry(t *testing.T) {
	r := newRig(t)
	r.write(r.conf("10-flannel.conflist"), flannel)
	r.install()
	r.write(r.Plugin, "binary 2")
	r.Entry.Deadline = 2 * time.Second
	if _, err := r.ensure(false, false); err != nil { // an agent beside another: it repairs, and does not replace
		t.Fatal(err)
	}
	if r.read(r.bin("warren-cni")) != "binary 1" || strings.Contains(r.read(r.conf("10-flannel.conflist")), "2s") {
		t.Error("replaced")
	}
	r.install()
	if r.read(r.bin("warren-cni")) != "binary 2" || !strings.Contains(r.read(r.conf("10-flannel.conflist")), `"deadline":"2s"`) {
		t.Error("not replaced")
	}
}

// TestInstallIsAtomic: while one version replaces the other again and again, who reads at any time, as the runtime does for
// each pod, finds one of them whole, in the list and as the binary.
func TestInstallIsAtomic(t *testing.T) {
	r := newRig(t)
	// So long that writing it in place would take several calls.
	versions := []string{strings.Repeat("a", 1<<20), strings.Repeat("b", 1<<20)}
	list := strings.Replace(flannel, `"name": "cbr0"`, `"name": "cbr0", "note": "`+strings.Repeat("n", 1<<18)+`"`, 1)
	r.write(r.conf("10-flannel.conflist"), list)
	install := func(version int) {
		r.write(r.Plugin, versions[version])
		r.Entry.Deadline = time.Duration(version+1) * time.Second
		r.install()
	}
	install(0)
	var looks atomic.Int64
	done := make(chan struct{})
	var wg sync.WaitGroup
	reader := func(path string, wrong func(content string) string) {
		wg.Go(func() {
			for {
				select {
				case <-done:
					return
				default:
				}
				b, err := os.ReadFile(path)
				if err != nil {
					t.Error(err)
					return
				}
				if what := wrong(string(b)); what != "" {
					t.Errorf("%s: %s (%d bytes)", path, what, len(b))
					return
				}
				looks.Add(1)
			}
		})
	}
	reader(r.bin("warren-cni"), func(s string) string {
		if !slices.Contains(versions, s) {
			return "neither version"
		}
		return ""
	})
	reader(r.conf("10-flannel.conflist"), func(s string) string {
		var l struct {
			Plugins []struct{ Type, Deadline string }
		}
		if err := json.Unmarshal([]byte(s), &l); err != nil {
			return err.Error()
		}
		if n := len(l.Plugins); n != 3 || l.Plugins[2].Type != "warren-cni" || l.Plugins[2].Deadline != "1s" && l.Plugins[2].Deadline != "2s" {
			return fmt.Sprintf("plugins %+v", l.Plugins)
		}
		return ""
	})
	for n := 1; n <= 60 || looks.Load() < 200 && !t.Failed(); n++ {
		install(n % 2)
	}
	close(done)
	wg.Wait()
	t.Logf("read %d times", looks.Load())
}

func TestInstallMovesToAnotherPrimary(t *testing.T) {
	r := newRig(t)
	r.write(r.conf("10-flannel.conflist"), flannel)
	r.install()
	r.write(r.conf("05-calico.conflist"), `{"name":"calico","plugins":[{"type":"calico"}]}`)
	r.install()
	if c := r.chain("05-calico.conflist"); c != "calico warren-cni" {
		t.Errorf("new primary: %s", c)
	}
	if got := r.read(r.conf("10-flannel.conflist")); got != flannel {
		t.Errorf("former primary: %s", got)
	}
}

func TestInstallWrapsASingleConfiguration(t *testing.T) {
	r := newRig(t)
	single := `{"cniVersion":"0.4.0","name":"bridge","type":"bridge","ipam":{"type":"host-local"}}`
	r.write(r.conf("10-bridge.conf"), single)
	before := r.files()
	r.install()
	r.install()
	if c := r.chain(ownList); c != "bridge warren-cni" {
		t.Errorf("chain: %s\n%s", c, r.read(r.conf(ownList)))
	}
	var l struct{ CNIVersion, Name string }
	if err := json.Unmarshal([]byte(r.read(r.conf(ownList))), &l); err != nil || l.CNIVersion != "0.4.0" || l.Name != "bridge" {
		t.Errorf("%+v %v", l, err)
	}
	if es, _ := os.ReadDir(r.ConfDir); es[0].Name() != ownList {
		t.Error("the runtime would take the other one")
	}
	r.remove()
	if got := r.files(); got != before || r.read(r.conf("10-bridge.conf")) != single {
		t.Errorf("files: %s, before %s", got, before)
	}
	// Where nothing can come before it, it is said.
	r.write(r.conf("00-a.conf"), single)
	if err := r.Install(); err == nil || !strings.Contains(err.Error(), "rename it") {
		t.Errorf("%v", err)
	}
}

func TestInstallFollowsLinks(t *testing.T) {
	r := newRig(t)
	target := filepath.Join(filepath.Dir(r.ConfDir), "real")
	r.write(target, flannel)
	if err := os.Symlink(target, r.conf("10-flannel.conflist")); err != nil {
		t.Fatal(err)
	}
	r.install()
	if l, err := os.Readlink(r.conf("10-flannel.conflist")); err != nil || l != target {
		t.Errorf("no link any more: %v", err)
	}
	if !strings.Contains(r.read(target), "warren-cni") {
		t.Error("not chained")
	}
	r.remove()
	if r.read(target) != flannel {
		t.Error("not as it was")
	}
}

func TestInstallLeavesHalfAFileAlone(t *testing.T) {
	r := newRig(t)
	half := flannel[:40]
	r.write(r.conf("10-flannel.conflist"), half)
	r.write(r.conf("20-other.conflist"), flannel)
	if err := r.Install(); err == nil {
		t.Error("no error")
	}
	if r.read(r.conf("10-flannel.conflist")) != half || r.read(r.conf("20-other.conflist")) != flannel {
		t.Error("changed")
	}
}

// TestExchangeLosesNothing: the owner writes between the reading and the replacing.
func TestExchangeLosesNothing(t *testing.T) {
	r := newRig(t)
	path := r.conf("10-flannel.conflist")
	r.write(path, flannel)
	before := r.files()
	times := 0
	_, err := edit(path, func(b []byte) ([]byte, error) {
		if times++; times == 1 {
			r.write(path, strings.Replace(flannel, "cbr0", "cbr1", 1))
		}
		return insert(b, testEntry, true)
	}, r.Log)
	if err != nil || times != 2 || r.chain("10-flannel.conflist") != "flannel portmap warren-cni" || !strings.Contains(r.read(path), "cbr1") {
		t.Errorf("%v after %d tries:\n%s", err, times, r.read(path))
	}
	if got := r.files(); got != before {
		t.Errorf("left behind: %s", got)
	}
}

// A list of a version that the plugin does not speak would start no pod with it.
func TestInstallLeavesVersionsToComeAlone(t *testing.T) {
	r := newRig(t)
	for _, list := range []string{
		`{"cniVersion":"7.0.0","name":"n","plugins":[{"type":"bridge"}]}`,
		`{"cniVersion":"1.0.0","cniVersions":["1.0.0","7.0.0"],"name":"n","plugins":[{"type":"bridge"}]}`,
	} {
		r.write(r.conf("10-new.conflist"), list)
		if err := r.Install(); err == nil || !strings.Contains(err.Error(), "cniVersion 7.0.0") || r.read(r.conf("10-new.conflist")) != list {
			t.Errorf("%v\n%s", err, r.read(r.conf("10-new.conflist")))
		}
		r.write(r.conf("10-new.conflist"), strings.Replace(list, `]}`, `,{"type":"warren-cni"}]}`, 1)) // its owner upgraded around it
		if err := r.Install(); err == nil || strings.Contains(r.chain("10-new.conflist"), "warren-cni") {
			t.Errorf("%v: pods of the node would fail: %s", err, r.chain("10-new.conflist"))
		}
	}
}

// Multus has the next configuration connect pods, and is named to come first.
func TestInstallChainsBehindMultus(t *testing.T) {
	r := newRig(t)
	multus := `{"name":"multus-cni-network","type":"multus","clusterNetwork":"/host/etc/cni/net.d/10-flannel.conflist"}`
	r.write(r.conf("00-multus.conf"), multus)
	r.write(r.conf("10-flannel.conflist"), flannel)
	r.install()
	if c := r.chain("10-flannel.conflist"); c != "flannel portmap warren-cni" || r.read(r.conf("00-multus.conf")) != multus {
		t.Errorf("chain %q, %s", c, r.read(r.conf("00-multus.conf")))
	}
	if strings.Contains(r.files(), ownList) {
		t.Error("a list made of Multus' configuration, which Multus would take for the cluster's")
	}
	if err := os.Remove(r.conf("10-flannel.conflist")); err != nil {
		t.Fatal(err)
	}
	r.write(r.conf("10-bridge.conf"), `{"name":"bridge","type":"bridge"}`)
	if err := r.Install(); err == nil || !strings.Contains(err.Error(), "make it a .conflist") {
		t.Errorf("%v", err)
	}
}

// The list made of a configuration goes with it.
func TestInstallOutlivesNoConfiguration(t *testing.T) {
	r := newRig(t)
	r.write(r.conf("10-bridge.conf"), `{"cniVersion":"0.4.0","name":"bridge","type":"bridge"}`)
	r.install()
	if err := os.Remove(r.conf("10-bridge.conf")); err != nil {
		t.Fatal(err)
	}
	if err := r.Install(); err == nil || strings.Contains(r.files(), ownList) {
		t.Errorf("%v: %s", err, r.files())
	}
}

// What a killed agent had begun is swept up.
func TestRemoveSweeps(t *testing.T) {
	r := newRig(t)
	before := r.files()
	r.write(r.conf(".warren-cni-1.tmp"), "half")
	r.write(r.bin(".warren-cni-2.tmp"), "half")
	if r.remove(); r.files() != before {
		t.Errorf("left: %s", r.files())
	}
	if err := Remove(filepath.Join(r.BinDir, "no"), filepath.Join(r.ConfDir, "no"), r.Log); err != nil {
		t.Errorf("a node that has nothing of it: %v", err)
	}
}

// Who takes the plugin away as often as it is installed is not met at the speed of the disk, and is named.
func TestPace(t *testing.T) {
	var p pace
	now := time.Unix(1, 0)
	told, looks := 0, 0
	for end := now.Add(time.Minute); now.Before(end); looks++ {
		now = now.Add(p.pause())
		if p.looked(now, true) {
			told++
		}
	}
	if looks > 25 || told != 1 {
		t.Errorf("%d looks in a minute, said %d times", looks, told)
	}
	now = now.Add(3 * lookAgain)
	if p.looked(now, false); p.pause() != quiet {
		t.Errorf("a pause of %v after a quiet while", p.pause())
	}
}

// TestRunKeepsItInstalled: the owner rewrites its list, the configuration comes late, the binary is deleted.
func TestRunKeepsItInstalled(t *testing.T) {
	r := newRig(t)
	ctx, cancel := context.WithCancel(t.Context())
	var wg sync.WaitGroup
	wg.Go(func() {
		if err := r.Run(ctx); err != nil {
			t.Error(err)
		}
	})
	defer wg.Wait()
	defer cancel()
	chained := func() bool { return r.chain("10-flannel.conflist") == "flannel portmap warren-cni" }
	installed := func() bool { _, err := os.Stat(r.bin("warren-cni")); return err == nil }
	testutil.Eventually(t, 4*time.Second, "the binary is installed before there is a network", installed)
	started := time.Now()
	r.write(r.conf("10-flannel.conflist"), flannel)
	testutil.Eventually(t, 4*time.Second, "chained when the network comes", chained)
	for _, rewrite := range []func(){
		func() { r.write(r.conf("10-flannel.conflist"), flannel) },
		func() {
			r.write(r.conf(".tmp"), flannel)
			if err := os.Rename(r.conf(".tmp"), r.conf("10-flannel.conflist")); err != nil {
				t.Fatal(err)
			}
		},
	} {
		rewrite()
		testutil.Eventually(t, 4*time.Second, "chained again", chained)
	}
	if err := os.Remove(r.bin("warren-cni")); err != nil {
		t.Fatal(err)
	}
	testutil.Eventually(t, 4*time.Second, "the binary is installed again", installed)
	t.Logf("three changes repaired in %v", time.Since(started).Round(time.Millisecond))
	cancel()
	wg.Wait()
	if !chained() || !installed() {
		t.Error("an agent that ended took the plugin away")
	}
	if slices.Contains(strings.Fields(r.files()), ownList) {
		t.Error("a list of our own beside a list")
	}
}

// TestNewestAgentStays: an agent that is about to end puts its own entry and binary back, when somebody has taken them
// away, before the newer one does.
func TestNewestAgentStays(t *testing.T) {
	r := newRig(t)
	old := r.Installer
	old.Newest = func() bool { return false }
	r.write(r.conf("10-flannel.conflist"), flannel)
	if err := old.Install(); err != nil {
		t.Fatal(err)
	}
	r.Plugin = filepath.Join(filepath.Dir(r.Plugin), "newer")
	r.write(r.Plugin, "binary 2")
	r.Entry.Deadline = 2 * time.Second
	ctx, cancel := context.WithCancel(t.Context())
	var wg sync.WaitGroup
	defer wg.Wait()
	defer cancel()
	for _, i := range []Installer{old, r.Installer} {
		wg.Go(func() {
			if err := i.Run(ctx); err != nil {
				t.Error(err)
			}
		})
	}
	binary := r.bin("warren-cni")
	newest := func() bool {
		b, _ := os.ReadFile(binary)
		return string(b) == "binary 2" && strings.Contains(r.read(r.conf("10-flannel.conflist")), `"deadline":"2s"`)
	}
	testutil.Eventually(t, 4*time.Second, "the newest agent's replaces the old one's", newest)
	if err := old.Install(); err != nil { // as if it had been the first to see that they are gone
		t.Fatal(err)
	}
	testutil.Eventually(t, 4*time.Second, "and does so again", newest)
	st, err := os.Stat(binary)
	if err != nil {
		t.Fatal(err)
	}
	r.write(r.conf("note"), "") // both look
	if _, err := old.ensure(false, false); err != nil {
		t.Fatal(err)
	}
	if now, err := os.Stat(binary); err != nil || !os.SameFile(st, now) || !newest() {
		t.Error("replaced by itself or by the old one")
	}
}
