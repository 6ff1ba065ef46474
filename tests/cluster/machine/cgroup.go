// SPDX-License-Identifier: Apache-2.0

package machine

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"
)

// Cgroup is one machine's directory in one cgroup hierarchy.
type Cgroup struct {
	Dir         string `json:"dir"`         // its path on this machine
	Controllers string `json:"controllers"` // as /proc/self/cgroup has it; empty for cgroup2
}

// Hierarchy is a mounted cgroup hierarchy of this machine.
type Hierarchy struct {
	Mount       string
	Own         string // the caller's own cgroup, relative to Mount
	Controllers string
}

// Hierarchies lists the cgroup hierarchies that are mounted, with the caller's own place in each.
func Hierarchies() ([]Hierarchy, error) {
	mounts, err := cgroupMounts()
	if err != nil {
		return nil, err
	}
	b, err := os.ReadFile("/proc/self/cgroup")
	if err != nil {
		return nil, fmt.Errorf("read own cgroups: %w", err)
	}
	var all []Hierarchy
	for line := range strings.Lines(string(b)) {
		f := strings.SplitN(strings.TrimSpace(line), ":", 3)
		if len(f) != 3 {
			continue
		}
		if m, ok := mounts[f[1]]; ok {
			all = append(all, Hierarchy{Mount: m, Own: f[2], Controllers: f[1]})
		}
	}
	return all, nil
}

// cgroupMounts maps a hierarchy's controllers, spelled as in /proc/self/cgroup, to where it is mounted.
func cgroupMounts() (map[string]string, error) {
	b, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		return nil, fmt.Errorf("read mounts: %w", err)
	}
	// Options of a v1 mount come in any order; /proc/self/cgroup says which words belong together.
	own, err := os.ReadFile("/proc/self/cgroup")
	if err != nil {
		return nil, fmt.Errorf("read own cgroups: %w", err)
	}
	found := map[string]string{}
	for s := bufio.NewScanner(bytes.NewReader(b)); s.Scan(); {
		left, right, ok := strings.Cut(s.Text(), " - ")
		l, r := strings.Fields(left), strings.Fields(right)
		if !ok || len(l) < 5 || len(r) < 3 {
			continue
		}
		switch r[0] {
		case "cgroup2":
			found[""] = l[4]
		case "cgroup":
			options := strings.Split(r[2], ",")
			for line := range strings.Lines(string(own)) {
				f := strings.SplitN(line, ":", 3)
				if len(f) == 3 && f[1] != "" && subset(strings.Split(f[1], ","), options) {
					found[f[1]] = l[4]
				}
			}
		}
	}
	return found, nil
}

func subset(part, whole []string) bool {
	return !slices.ContainsFunc(part, func(p string) bool { return !slices.Contains(whole, p) })
}

// UnifiedOnly says whether cgroup2 is the only hierarchy.
func UnifiedOnly(hs []Hierarchy) bool { return len(hs) == 1 && hs[0].Controllers == "" }

// NodeControllers are what a kubelet wants to find in its cgroup2 root.
var NodeControllers = []string{"cpu", "memory", "pids"}

// Parent is the directory new machines go into: the caller's own cgroup, so that its limits hold for them too; where
// cgroup2 is alone, the nearest one above that hands the controllers on, as one with processes in it can't.
func (h Hierarchy) Parent(unifiedOnly bool) (string, error) {
	dir := filepath.Join(h.Mount, h.Own)
	if !unifiedOnly {
		return dir, nil
	}
	for ; ; dir = filepath.Dir(dir) {
		b, err := os.ReadFile(filepath.Join(dir, "cgroup.subtree_control"))
		if err == nil && subset(NodeControllers, strings.Fields(string(b))) {
			return dir, nil
		}
		if dir == h.Mount || dir == "/" {
			return "", fmt.Errorf("find a cgroup that hands on %s: none from %s upwards (as root: echo '+cpu +memory +pids +cpuset' > %s/cgroup.subtree_control)",
				strings.Join(NodeControllers, ", "), filepath.Join(h.Mount, h.Own), h.Mount)
		}
	}
}

// makeCgroups creates a machine's directory in every hierarchy.
func makeCgroups(name string) ([]Cgroup, error) {
	hs, err := Hierarchies()
	if err != nil {
		return nil, err
	}
	var made []Cgroup
	for _, h := range hs {
		parent, err := h.Parent(UnifiedOnly(hs))
		if err != nil {
			return made, err
		}
		dir := filepath.Join(parent, name)
		if err := os.Mkdir(dir, 0o755); err != nil && !errors.Is(err, fs.ErrExist) {
			return made, fmt.Errorf("create cgroup: %w", err)
		}
		made = append(made, Cgroup{Dir: dir, Controllers: h.Controllers})
		if slices.Contains(strings.Split(h.Controllers, ","), "cpuset") {
			if err := inheritCpuset(parent, dir); err != nil {
				return made, err
			}
		}
	}
	return made, nil
}

// inheritCpuset fills in a v1 cpuset, which takes no process while it is empty.
func inheritCpuset(parent, dir string) error {
	for _, f := range []string{"cpuset.cpus", "cpuset.mems"} {
		b, err := os.ReadFile(filepath.Join(parent, f))
		if err != nil {
			return fmt.Errorf("read cpuset: %w", err)
		}
		if err := os.WriteFile(filepath.Join(dir, f), b, 0); err != nil {
			return fmt.Errorf("set cpuset: %w", err)
		}
	}
	if err := os.WriteFile(filepath.Join(dir, "cgroup.clone_children"), []byte("1"), 0); err != nil {
		return fmt.Errorf("set cpuset: %w", err)
	}
	return nil
}

// FindCgroups returns the directories below every hierarchy whose last element starts with prefix.
func FindCgroups(prefix string) ([]string, error) {
	mounts, err := cgroupMounts()
	if err != nil {
		return nil, err
	}
	var found []string
	for _, m := range mounts {
		_ = filepath.WalkDir(m, func(path string, d fs.DirEntry, err error) error {
			if err != nil || !d.IsDir() {
				return nil // a cgroup that went away meanwhile
			}
			if strings.HasPrefix(d.Name(), prefix) {
				found = append(found, path)
				return fs.SkipDir
			}
			return nil
		})
	}
	slices.Sort(found)
	return found, nil
}

// processesBelow lists the pids in a cgroup and everything below it.
func processesBelow(dir string) []int {
	var pids []int
	_ = filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() || d.Name() != "cgroup.procs" {
			return nil
		}
		b, _ := os.ReadFile(path)
		for f := range strings.FieldsSeq(string(b)) {
			if pid, err := strconv.Atoi(f); err == nil && pid > 0 {
				pids = append(pids, pid)
			}
		}
		return nil
	})
	return pids
}

// RemoveCgroups ends every process in the directories and below them, and removes them all.
func RemoveCgroups(dirs []string, within time.Duration) error {
	end := time.Now().Add(within)
	for {
		left := 0
		for _, d := range dirs {
			for _, pid := range processesBelow(d) {
				left++
				_ = syscall.Kill(pid, syscall.SIGKILL)
			}
		}
		if left == 0 {
			break
		}
		if time.Now().After(end) {
			return fmt.Errorf("end the processes of %s: %d are left after %v", strings.Join(dirs, ", "), left, within)
		}
		time.Sleep(10 * time.Millisecond)
	}
	for {
		var failed error
		for _, d := range dirs {
			failed = errors.Join(failed, removeTree(d))
		}
		if failed == nil || time.Now().After(end) {
			return failed
		}
		time.Sleep(10 * time.Millisecond)
	}
}

// emptyTrees removes what lies below the cgroups.
func emptyTrees(dirs []string) error {
	var failed error
	for _, dir := range dirs {
		entries, err := os.ReadDir(dir)
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		failed = errors.Join(failed, err)
		for _, e := range entries {
			if e.IsDir() {
				failed = errors.Join(failed, removeTree(filepath.Join(dir, e.Name())))
			}
		}
	}
	return failed
}

// removeTree removes a cgroup and those in it, deepest first.
func removeTree(dir string) error {
	err := emptyTrees([]string{dir})
	if e := syscall.Rmdir(dir); e != nil && e != syscall.ENOENT {
		err = errors.Join(err, fmt.Errorf("remove cgroup %s: %w", dir, e))
	}
	return err
}

// enter moves the calling process into leaf below each directory.
func enter(cgroups []Cgroup, leaf string) error {
	for _, c := range cgroups {
		dir := filepath.Join(c.Dir, leaf)
		if err := os.MkdirAll(dir, 0o755); err != nil {
			return fmt.Errorf("create cgroup: %w", err)
		}
		if err := os.WriteFile(filepath.Join(dir, "cgroup.procs"), []byte("0"), 0); err != nil {
			return fmt.Errorf("enter cgroup %s: %w", dir, err)
		}
	}
	return nil
}
