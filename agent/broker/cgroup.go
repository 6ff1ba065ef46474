// SPDX-License-Identifier: Apache-2.0

package broker

import (
	"bufio"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// cgroups is where the pods' control groups are.
type cgroups struct {
	root string // of the hierarchy, or of the node's part of it
	pods string // kubepods below it; root where there is none
}

// findCgroups looks for kubepods below root, or below the cgroup2 mount if root is not in one.
func findCgroups(root string) (cgroups, error) {
	var st unix.Statfs_t
	if err := unix.Statfs(root, &st); err != nil {
		return cgroups{}, fmt.Errorf("find cgroups at %s: %w", root, os.NewSyscallError("statfs", err))
	}
	if st.Type != unix.CGROUP2_SUPER_MAGIC {
		mount, err := cgroup2Mount(root)
		if err != nil {
			return cgroups{}, err
		}
		root = mount
	}
	return podsBelow(root), nil
}

// podsBelow looks for kubepods. kubelet may itself have been given a cgroup to work below: look one level further.
func podsBelow(root string) cgroups {
	for _, pattern := range []string{"kubepods", "kubepods.slice", "*/kubepods", "*/*kubepods.slice"} {
		if m, _ := filepath.Glob(filepath.Join(root, pattern)); len(m) > 0 {
			return cgroups{root: root, pods: m[0]}
		}
	}
	return cgroups{root: root, pods: root}
}

// cgroup2Mount returns the cgroup2 mount at or below dir, or the first of all.
func cgroup2Mount(dir string) (string, error) {
	f, err := os.Open("/proc/self/mounts")
	if err != nil {
		return "", fmt.Errorf("find cgroup2 mount: %w", err)
	}
	defer f.Close()
	first := ""
	for s := bufio.NewScanner(f); s.Scan(); {
		w := strings.Fields(s.Text())
		if len(w) < 3 || w[2] != "cgroup2" {
			continue
		}
		if w[1] == dir || strings.HasPrefix(w[1], dir+"/") {
			return w[1], nil
		}
		if first == "" {
			first = w[1]
		}
	}
	if first == "" {
		return "", errors.New("find cgroup2 mount: none in /proc/self/mounts (is this a cgroup v1 host?)")
	}
	return first, nil
}

// errNoCgroup: no process can be in the pod. Other files that don't exist say less.
var errNoCgroup = errors.New("there is none")

// pod returns the pod's directory: pod<uid>, or systemd's *-pod<uid with underscores>.slice, at most four
// levels below the pods' root.
func (c cgroups) pod(uid string) (string, error) {
	plain, slice := "pod"+uid, "-pod"+strings.ReplaceAll(uid, "-", "_")+".slice"
	found := ""
	err := filepath.WalkDir(c.pods, func(path string, d fs.DirEntry, err error) error {
		switch {
		case errors.Is(err, fs.ErrNotExist):
			return nil // ended while we looked
		case err != nil:
			return err
		case !d.IsDir():
			return nil
		case d.Name() == plain || strings.HasSuffix(d.Name(), slice):
			found = path
			return fs.SkipAll
		}
		rel, _ := filepath.Rel(c.pods, path)
		isPod := strings.HasPrefix(d.Name(), "pod") || strings.Contains(d.Name(), "-pod")
		if isPod && path != c.pods || strings.Count(rel, "/") >= 3 {
			return fs.SkipDir
		}
		return nil
	})
	if err != nil {
		return "", fmt.Errorf("find cgroup of pod %s: %w", uid, err)
	}
	if found == "" {
		return "", fmt.Errorf("find cgroup of pod %s: %w below %s", uid, errNoCgroup, c.pods)
	}
	return found, nil
}

// ownPIDs lists the processes of one control group. A threaded group, which whoever owns the container's part of the
// tree may make, refuses to name its own: they stand in the list of the group above that is not threaded.
func ownPIDs(dir string) ([]int, error) {
	b, err := os.ReadFile(filepath.Join(dir, "cgroup.procs"))
	if err != nil && !errors.Is(err, fs.ErrNotExist) && !errors.Is(err, unix.ENODEV) && !errors.Is(err, unix.EOPNOTSUPP) {
		return nil, err
	}
	var out []int
	for _, w := range strings.Fields(string(b)) {
		// 0 is a process that this pid namespace does not show.
		if pid, err := strconv.Atoi(w); err == nil && pid > 0 {
			out = append(out, pid)
		}
	}
	return out, nil
}

// pids lists the processes of a control group and those below it.
func pids(dir string) ([]int, error) {
	var out []int
	err := filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil || !d.IsDir() {
			if errors.Is(err, fs.ErrNotExist) && path != dir {
				return nil
			}
			return err
		}
		own, err := ownPIDs(path)
		if err != nil {
			return err
		}
		out = append(out, own...)
		return nil
	})
	slices.Sort(out) // the sandbox's own process is usually the eldest
	return out, err
}
