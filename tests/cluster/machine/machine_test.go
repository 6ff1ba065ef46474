// SPDX-License-Identifier: Apache-2.0

package machine

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

func TestParent(t *testing.T) {
	mount := t.TempDir()
	own := "/user.slice/session.scope"
	if err := os.MkdirAll(filepath.Join(mount, own), 0o755); err != nil {
		t.Fatal(err)
	}
	control := func(dir, controllers string) {
		if err := os.WriteFile(filepath.Join(mount, dir, "cgroup.subtree_control"), []byte(controllers+"\n"), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	h := Hierarchy{Mount: mount, Own: own}
	if dir, err := h.Parent(false); err != nil || dir != mount+own {
		t.Errorf("beside v1: %s, %v", dir, err)
	}
	control(own, "")
	control("/user.slice", "memory pids")
	control("/", "hugetlb")
	if dir, err := h.Parent(true); err == nil || !strings.Contains(err.Error(), "echo '+cpu") {
		t.Errorf("nothing hands the controllers on: %s, %v", dir, err)
	}
	control("/", "cpuset cpu io memory pids")
	if dir, err := h.Parent(true); err != nil || dir != mount {
		t.Errorf("the root hands them on: %s, %v", dir, err)
	}
	control("/user.slice", "cpu memory pids")
	if dir, err := h.Parent(true); err != nil || dir != mount+"/user.slice" {
		t.Errorf("a slice hands them on: %s, %v", dir, err)
	}
}

func TestCgroupsInside(t *testing.T) {
	both := cgroupsInside([]Cgroup{{"/x/cpu", "cpu,cpuacct"}, {"/x/systemd", "name=systemd"}, {"/x/unified", ""}})
	for i, want := range []string{"/sys/fs/cgroup/cpu,cpuacct", "/sys/fs/cgroup/systemd", "/sys/fs/cgroup/unified"} {
		if both[i].Dir != want {
			t.Errorf("%q lies at %s, want %s", both[i].Controllers, both[i].Dir, want)
		}
	}
	if alone := cgroupsInside([]Cgroup{{"/x", ""}}); alone[0].Dir != "/sys/fs/cgroup" {
		t.Errorf("cgroup2 alone lies at %s", alone[0].Dir)
	}
}

func TestStartTime(t *testing.T) {
	first, err := startTime(os.Getpid())
	if err != nil {
		t.Fatal(err)
	}
	if again, _ := startTime(os.Getpid()); again != first {
		t.Errorf("one process started at %s and at %s", first, again)
	}
	child := exec.Command("true")
	if err := child.Start(); err != nil {
		t.Fatal(err)
	}
	pid := child.Process.Pid
	if err := child.Wait(); err != nil {
		t.Fatal(err)
	}
	if _, err := startTime(pid); err == nil {
		t.Error("a process that has ended has a start time")
	}
}

func TestOrders(t *testing.T) {
	v := newSupervisor(Spec{Name: "m", Dir: t.TempDir()})
	for _, o := range []order{{Do: "dance"}, {Do: "start", Service: Service{Name: "none"}}, {Do: "stop", Service: Service{Name: "none"}}, {Do: "signal", Service: Service{Name: "none"}}} {
		if _, err := v.obey(o); err == nil {
			t.Errorf("order %+v was obeyed", o)
		}
	}
	if all, err := v.obey(order{Do: "status"}); err != nil || len(all) != 0 {
		t.Errorf("status is %v, %v", all, err)
	}
}

func TestCreateRefusesLongPaths(t *testing.T) {
	dir := filepath.Join(t.TempDir(), strings.Repeat("long", 30))
	if _, err := Create("/none", "none", Spec{Name: "m", Dir: dir}); err == nil || !strings.Contains(err.Error(), "shorter") {
		t.Errorf("a socket path too long: %v", err)
	}
}
