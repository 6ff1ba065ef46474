// SPDX-License-Identifier: Apache-2.0

package broker

import (
	"log/slog"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
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
	dir, err := findKubelet(n.proc, filepath.Join(n.proc, "host"), podsBelow(n.cgroup))
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
	if got, err := n.find(); err == nil {
		t.Errorf("%q was taken for the kubelet", got)
	}
}

func TestKubeletThatIsAwayIsWhereItWas(t *testing.T) {
	n := newFakeNode(t)
	dir := n.process(9, "system.slice/kubelet.service", "host", "kubelet")
	cfg := Config{Proc: n.proc, HostNetns: filepath.Join(n.proc, "host"), StateDir: t.TempDir(), Log: slog.New(slog.DiscardHandler)}
	first, err := kubeletCgroup(cfg, podsBelow(n.cgroup))
	must(t, err)
	must(t, os.RemoveAll(dir))
	again, err := kubeletCgroup(cfg, podsBelow(n.cgroup))
	if err != nil || again != first {
		t.Errorf("with the kubelet away: %q, %v; want %q", again, err, first)
	}
	must(t, os.RemoveAll(first))
	if again, err := kubeletCgroup(cfg, podsBelow(n.cgroup)); err == nil {
		t.Errorf("a cgroup that is gone: %q", again)
	}
}
