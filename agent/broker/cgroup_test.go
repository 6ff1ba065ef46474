// SPDX-License-Identifier: Apache-2.0

package broker

import (
	"errors"
	"os"
	"path/filepath"
	"slices"
	"testing"
)

func TestPodCgroup(t *testing.T) {
	const uid = "11111111-2222-3333-4444-555555555555"
	const under = "11111111_2222_3333_4444_555555555555"
	for name, dir := range map[string]string{
		"cgroupfs, guaranteed": "kubepods/pod" + uid,
		"cgroupfs, burstable":  "kubepods/burstable/pod" + uid,
		"systemd, guaranteed":  "kubepods.slice/kubepods-pod" + under + ".slice",
		"systemd, best effort": "kubepods.slice/kubepods-besteffort.slice/kubepods-besteffort-pod" + under + ".slice",
		"below kubelet's":      "kubelet/kubepods/burstable/pod" + uid,
		"systemd, below":       "kubelet.slice/kubelet-kubepods.slice/kubelet-kubepods-burstable.slice/kubelet-kubepods-burstable-pod" + under + ".slice",
	} {
		t.Run(name, func(t *testing.T) {
			root := t.TempDir()
			must(t, os.MkdirAll(filepath.Join(root, dir, "container"), 0o755))
			must(t, os.MkdirAll(filepath.Join(root, filepath.Dir(dir), "pod99999999-2222-3333-4444-555555555555", "pod"+uid), 0o755))
			must(t, os.WriteFile(filepath.Join(root, dir, "cgroup.procs"), []byte("30\n7\n0\n"), 0o600))
			must(t, os.WriteFile(filepath.Join(root, dir, "container", "cgroup.procs"), []byte("9\n"), 0o600))
			g := podsBelow(root)
			if g.pods == root {
				t.Fatal("kubepods not found")
			}
			got, err := g.pod(uid)
			if err != nil || got != filepath.Join(root, dir) {
				t.Fatalf("found %s, %v", got, err)
			}
			if ps, err := pids(got); err != nil || !slices.Equal(ps, []int{7, 9, 30}) {
				t.Errorf("processes %v, %v", ps, err)
			}
			if _, err := g.pod("22222222-2222-3333-4444-555555555555"); !errors.Is(err, errNoCgroup) {
				t.Errorf("another pod: %v", err)
			}
		})
	}
	if root := t.TempDir(); podsBelow(root).pods != root {
		t.Error("without kubepods the root is meant")
	}
}

func TestProbeCgroupMustNotHoldThePods(t *testing.T) {
	g := cgroups{root: "/cg", pods: "/cg/kubepods"}
	for path, want := range map[string]string{"/cg/kubelet": "/cg/kubelet", "/system.slice/kubelet.service": "/cg/system.slice/kubelet.service"} {
		if got, err := probeCgroup(path, g); err != nil || got != want {
			t.Errorf("%q: %q, %v", path, got, err)
		}
	}
	for _, path := range []string{"/cg", "/cg/kubepods", "/cg/", "/"} {
		if got, err := probeCgroup(path, g); err == nil {
			t.Errorf("%q accepted as %q", path, got)
		}
	}
}
