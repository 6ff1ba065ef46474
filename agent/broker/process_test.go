// SPDX-License-Identifier: Apache-2.0

package broker

import (
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	wire "github.com/warren-mesh/warren/mesh/broker"
)

// procfs makes a directory that looks like one, with a namespace of its own for each process, and a pod's cgroup.
func procfs(t *testing.T, uid string, starts map[int]uint64) *finder {
	root, proc := t.TempDir(), t.TempDir()
	dir := filepath.Join(root, "kubepods", "pod"+uid)
	must(t, os.MkdirAll(dir, 0o755))
	var list strings.Builder
	for pid, start := range starts {
		of := filepath.Join(proc, strconv.Itoa(pid))
		must(t, os.MkdirAll(filepath.Join(of, "ns"), 0o755))
		must(t, os.WriteFile(filepath.Join(of, "ns/net"), nil, 0o600))
		stat := fmt.Sprintf("%d (a) R 1 2) S 1%s %d 0 0\n", pid, strings.Repeat(" 7", 17), start)
		must(t, os.WriteFile(filepath.Join(of, "stat"), []byte(stat), 0o600))
		fmt.Fprintln(&list, pid)
	}
	must(t, os.WriteFile(filepath.Join(dir, "cgroup.procs"), []byte(list.String()), 0o600))
	return &finder{cgroups: podsBelow(root), proc: proc, host: &namespace{}}
}

func TestEldestProcessesFirst(t *testing.T) {
	f := procfs(t, "a", map[int]uint64{7: 300, 9: 200, 30000: 100})
	var got []int
	for _, c := range f.eldest([]int{7, 8, 9, 30000}) { // 8 just ended
		got = append(got, c.pid)
	}
	if fmt.Sprint(got) != "[30000 9 7 8]" {
		t.Errorf("order %v", got)
	}
}

func TestProcessesLookedAtAreBounded(t *testing.T) {
	starts := map[int]uint64{}
	for pid := 1; pid <= 3*mostLooked; pid++ {
		starts[pid] = uint64(pid)
	}
	f := procfs(t, "a", starts)
	_, err := f.find(wire.Capture{UID: "a"}, nil)
	if want := fmt.Sprintf("the eldest %d of its %d", mostLooked, len(starts)); err == nil || !strings.Contains(err.Error(), want) {
		t.Errorf("%v, want %q in it", err, want)
	}
}

// The process seen last answers for the pod, without the list of the others; another of its number does not.
func TestAliveLooksAtTheLastProcessFirst(t *testing.T) {
	f := procfs(t, "a", map[int]uint64{7: 300})
	dir := filepath.Join(f.cgroups.pods, "poda")
	var st unix.Stat_t
	must(t, unix.Stat(filepath.Join(f.proc, "7/ns/net"), &st))
	p := &place{ns: &namespace{inode: st.Ino}, cgroup: dir}
	look := func() bool {
		_, in, err := f.alive(p)
		must(t, err)
		return in
	}
	if !look() || p.seen != (candidate{pid: 7, start: 300}) {
		t.Fatalf("seen %+v", p.seen)
	}
	must(t, os.WriteFile(filepath.Join(dir, "cgroup.procs"), nil, 0o600))
	if !look() {
		t.Error("the process that was seen is not looked at first")
	}
	p.seen.start = 299
	if look() {
		t.Error("a process that took over the number passes for the one before")
	}
	must(t, os.RemoveAll(dir))
	p.seen.start = 300
	if group, _, _ := f.alive(p); group {
		t.Error("a cgroup that ended is seen")
	}
}
