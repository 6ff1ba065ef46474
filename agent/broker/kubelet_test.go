// SPDX-License-Identifier: Apache-2.0

package broker

import (
	"errors"
	"log/slog"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"
)

// fakeNode is a procfs and a cgroup hierarchy of plain files.
type fakeNode struct {
	t            *testing.T
	proc, cgroup string
}

func newFakeNode(t *testing.T) *fakeNode {
	if os.Getuid() != 0 {
		t.Skip("files of root's stand for processes of root's")
	}
	n := &fakeNode{t: t, proc: t.TempDir(), cgroup: t.TempDir()}
	must(t, os.WriteFile(filepath.Join(n.proc, "host"), nil, 0o600))
	must(t, os.Mkdir(filepath.Join(n.cgroup, "kubepods"), 0o755))
	return n
}

// process adds one; net is the file that stands for its network namespace.
func (n *fakeNode) process(pid int, cgroup, net string, args ...string) string {
	n.t.Helper()
	dir := filepath.Join(n.proc, strconv.Itoa(pid))
	must(n.t, os.MkdirAll(filepath.Join(dir, "ns"), 0o755))
	must(n.t, os.WriteFile(filepath.Join(dir, "cmdline"), []byte(strings.Join(args, "\x00")+"\x00"), 0o600))
	path := filepath.Join(n.proc, net)
	if _, err := os.Stat(path); err != nil {
		must(n.t, os.WriteFile(path, nil, 0o600))
	}
	must(n.t, os.Link(path, filepath.Join(dir, "ns/net")))
	group := filepath.Join(n.cgroup, cgroup)
	must(n.t, os.MkdirAll(group, 0o755))
	f, err := os.OpenFile(filepath.Join(group, "cgroup.procs"), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	must(n.t, err)
	_, err = f.WriteString(strconv.Itoa(pid) + "\n")
	must(n.t, err)
	must(n.t, f.Close())
	return dir
}

func (n *fakeNode) find() (string, error) {
	dir, _, err := findKubelet(n.proc, filepath.Join(n.proc, "host"), podsBelow(n.cgroup))
	return strings.TrimPrefix(dir, n.cgroup+"/"), err
}

func TestKubeletIsFound(t *testing.T) {
	for name, args := range map[string][]string{
		"by its program":                 {"/usr/bin/kubelet", "--config=x"},
		"by the word behind its program": {"/opt/kube", "kubelet", "--config=x"},
	} {
		t.Run(name, func(t *testing.T) {
			n := newFakeNode(t)
			n.process(7, "system.slice/containerd.service", "host", "/usr/bin/containerd")
			n.process(9, "system.slice/kubelet.service", "host", args...)
			if got, err := n.find(); err != nil || got != "system.slice/kubelet.service" {
				t.Errorf("found %q, %v", got, err)
			}
		})
	}
}

func TestImpostorsOfTheKubelet(t *testing.T) {
	n := newFakeNode(t)
	n.process(20, "kubepods/podx/c", "host", "/kubelet")         // a pod with the host's network
	n.process(21, "system.slice/x.service", "other", "/kubelet") // in another network
	user := n.process(22, "user.slice", "host", "/kubelet")      // a user's
	must(t, os.Chown(user, 1000, 1000))
	n.process(23, "system.slice/y.service", "host", "/kubelet-wrapper", "-kubelet")
	n.process(24, "user.slice/session-1.scope", "host", "/usr/bin/vim", "kubelet") // who edits its configuration while it is away
	if got, err := n.find(); err == nil {
		t.Errorf("%q was taken for the kubelet", got)
	}
}

// follower follows the node's kubelet; what the kernel is told to note is in noted.
func (n *fakeNode) follower(cgroup string) (k *kubelet, noted func() string, log *strings.Builder) {
	log = &strings.Builder{}
	cfg := Config{Proc: n.proc, HostNetns: filepath.Join(n.proc, "host"), StateDir: n.t.TempDir(), KubeletCgroup: cgroup,
		Log: slog.New(slog.NewTextHandler(log, nil))}
	k = newKubelet(cfg, podsBelow(n.cgroup))
	got := "nothing"
	k.set = func(dir string) error { got = strings.TrimPrefix(dir, n.cgroup+"/"); return nil }
	return k, func() string { defer func() { got = "nothing" }(); return got }, log
}

func TestKubeletIsFollowed(t *testing.T) {
	const unit = "system.slice/kubelet.service"
	now := time.Unix(1, 0)
	n := newFakeNode(t)
	k, noted, _ := n.follower(KubeletAuto)
	step := func(what, want string) {
		t.Helper()
		now = now.Add(seekEvery)
		if k.follow(now); noted() != want {
			t.Errorf("%s: want the kernel to note %q; it is at %q", what, want, k.dir)
		}
	}
	must(t, k.look(now))
	if noted() != "nothing" || k.dir != "" {
		t.Error("there is no kubelet yet, and one was found")
	}
	dir := n.process(9, unit, "host", "kubelet")
	step("it comes", unit)
	step("it is there", "nothing")
	must(t, os.RemoveAll(dir))
	must(t, os.WriteFile(filepath.Join(n.cgroup, unit, "cgroup.procs"), nil, 0o600))
	step("it ended and its cgroup stays", "nothing")
	// Files need not have new inodes when they are made again; another directory in its place has.
	must(t, os.Rename(filepath.Join(n.cgroup, unit), filepath.Join(n.cgroup, "gone")))
	step("its cgroup is gone", "")
	n.process(10, unit, "host", "kubelet")
	step("it is back, in a cgroup made anew", unit)
	must(t, os.RemoveAll(filepath.Join(n.proc, "10")))
	must(t, os.Rename(filepath.Join(n.cgroup, unit), filepath.Join(n.cgroup, "gone too")))
	n.process(11, unit, "host", "kubelet")
	step("it was restarted between two looks", unit)
	must(t, os.RemoveAll(filepath.Join(n.proc, "11")))
	must(t, os.WriteFile(filepath.Join(n.cgroup, unit, "cgroup.procs"), nil, 0o600))
	n.process(12, "kubelet.slice", "host", "kubelet")
	step("it is back elsewhere", "kubelet.slice")
}

func TestKubeletThatIsAwayIsWhereItWas(t *testing.T) {
	n := newFakeNode(t)
	dir := n.process(9, "system.slice/kubelet.service", "host", "kubelet")
	k, _, _ := n.follower(KubeletAuto)
	must(t, k.look(time.Now()))
	must(t, os.RemoveAll(dir))
	again := newKubelet(k.cfg, k.groups) // as a broker that starts
	must(t, again.look(time.Now()))
	if again.dir == "" || again.dir != k.dir {
		t.Errorf("with the kubelet away: %q, want %q", again.dir, k.dir)
	}
}

// TestKubeletThatWasWhereThePodsAreNow: the cgroup it was found in last is judged like any other.
func TestKubeletThatWasWhereThePodsAreNow(t *testing.T) {
	n := newFakeNode(t)
	k, noted, _ := n.follower(KubeletAuto)
	must(t, os.WriteFile(filepath.Join(k.cfg.StateDir, kubeletFile), []byte(n.cgroup), 0o600))
	must(t, k.look(time.Now()))
	if got := noted(); got != "nothing" || k.dir != "" {
		t.Errorf("the kernel notes %q, %q, which holds the pods", got, k.dir)
	}
}

func TestKubeletThatHoldsThePods(t *testing.T) {
	n := newFakeNode(t)
	n.process(9, ".", "host", "kubelet")
	k, noted, log := n.follower(KubeletAuto)
	must(t, k.look(time.Now())) // capture goes on
	if noted() != "nothing" || k.dir != "" || !strings.Contains(log.String(), "contains the pods") {
		t.Errorf("noted %q; log: %s", k.dir, log)
	}
	k, _, _ = n.follower("/")
	if err := k.look(time.Now()); !errors.Is(err, errHoldsPods) {
		t.Errorf("named by the user: %v", err)
	}
}

func TestNamedKubeletCgroupThatIsAway(t *testing.T) {
	n := newFakeNode(t)
	k, noted, log := n.follower("k3s.service")
	now := time.Now()
	must(t, k.look(now))
	if k.dir != "" || !strings.Contains(log.String(), "k3s.service: no such file") {
		t.Errorf("noted %q; log: %s", k.dir, log)
	}
	must(t, os.Mkdir(filepath.Join(n.cgroup, "k3s.service"), 0o755))
	if k.follow(now.Add(seekEvery)); noted() != "k3s.service" {
		t.Errorf("it came, and is at %q", k.dir)
	}
}

func TestWhoSharesTheKubeletsCgroup(t *testing.T) {
	n := newFakeNode(t)
	stat := func(dir, line string) { must(t, os.WriteFile(filepath.Join(dir, "stat"), []byte(line), 0o600)) }
	stat(n.process(9, "kubelet.service", "host", "kubelet"), "9 (kubelet) S 1 9")
	stat(n.process(12, "kubelet.service", "host", "mount.nfs"), "12 (mount.nfs) S 9 9")
	k, _, log := n.follower(KubeletAuto)
	must(t, k.look(time.Now()))
	if strings.Contains(log.String(), "share") {
		t.Errorf("the kubelet is alone with its child: %s", log)
	}
	stat(n.process(13, "kubelet.service", "host", "containerd"), "13 (a b) c) S 1 9")
	k, _, log = n.follower(KubeletAuto)
	must(t, k.look(time.Now()))
	if !strings.Contains(log.String(), `processes="[a b) c]"`) {
		t.Errorf("log: %s", log)
	}
}
