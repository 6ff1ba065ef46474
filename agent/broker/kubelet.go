// SPDX-License-Identifier: Apache-2.0

package broker

import (
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

	"golang.org/x/sys/unix"
)

// KubeletAuto as Config.KubeletCgroup looks for the kubelet's process.
const KubeletAuto = "auto"

// kubeletFile, in the state directory, is where the kubelet was found last: it may be away while the broker starts.
const kubeletFile = "kubelet-cgroup"

var errNoKubelet = errors.New("no process of root's is called kubelet, in the host's network and outside of the pods' cgroup")

// seekEvery is how long a kubelet that is away is not looked for again: it takes a look at every process.
const seekEvery = 2 * time.Second

// kubelet is where the connections come from that are probes. It may be away while the broker starts, come back as another
// process, in a cgroup that was made anew (systemd does so at each restart), or in another place. Not safe for concurrent use.
type kubelet struct {
	cfg    Config
	groups cgroups
	set    func(cgroup string) error // in the kernel
	dir    string                    // of its cgroup, as the kernel has it; "" for none
	id     uint64                    // of that cgroup
	pid    int                       // the process that was found in it; 0 if none was
	next   time.Time                 // when to look again
	said   string                    // the last complaint
}

func newKubelet(cfg Config, groups cgroups) *kubelet {
	return &kubelet{cfg: cfg, groups: groups, set: func(string) error { return nil }}
}

// follow looks whether the kubelet is where it was, and if not, where it is.
func (k *kubelet) follow(now time.Time) {
	if k.cfg.KubeletCgroup == "" || now.Before(k.next) || k.there() {
		return
	}
	if err := k.look(now); err != nil {
		k.complain(err)
	}
}

// there says whether the cgroup is the one known, with the process known in it.
func (k *kubelet) there() bool {
	if id, err := cgroupID(k.dir); k.dir == "" || err != nil || id != k.id {
		return false
	}
	if k.cfg.KubeletCgroup != KubeletAuto {
		return true
	}
	own, err := ownPIDs(k.dir)
	return err == nil && slices.Contains(own, k.pid)
}

// look finds the kubelet's cgroup and has the kernel note what comes from there. An error is one of the configuration;
// whatever else is missing is a complaint, for capture does not need it.
func (k *kubelet) look(now time.Time) error {
	k.next = now.Add(seekEvery)
	if k.cfg.KubeletCgroup == "" {
		return nil
	}
	dir, pid, err := k.find()
	switch {
	case errors.Is(err, errHoldsPods) && k.cfg.KubeletCgroup != KubeletAuto:
		return err
	case err != nil:
		k.complain(err)
	}
	id, err := cgroupID(dir)
	if err != nil {
		dir, id = "", 0
	}
	if dir != k.dir || id != k.id {
		if err := k.set(dir); err != nil {
			k.complain(err)
			return nil
		}
		if dir != "" {
			k.cfg.Log.Info("connections of the kubelet to pods are probes", "cgroup", dir)
		}
	}
	k.dir, k.id, k.pid = dir, id, pid
	if pid != 0 && dir != "" {
		k.next, k.said = time.Time{}, ""
		k.tellSharers()
	}
	return nil
}

// complain says once what is wrong.
func (k *kubelet) complain(err error) {
	if err.Error() != k.said {
		k.said = err.Error()
		k.cfg.Log.Warn("kubelet's probes may be connections like any other, which STRICT refuses: name its cgroup", "err", err)
	}
}

// find returns the kubelet's cgroup, and its process if it was looked for and found. With an error the cgroup may be that
// in which it was last, or "".
func (k *kubelet) find() (dir string, pid int, err error) {
	if k.cfg.KubeletCgroup != KubeletAuto {
		dir, err = probeCgroup(k.cfg.KubeletCgroup, k.groups)
		if err == nil {
			_, err = os.Stat(dir)
		}
		return dir, 0, err
	}
	kept := filepath.Join(k.cfg.StateDir, kubeletFile)
	dir, pid, err = findKubelet(k.cfg.Proc, k.cfg.HostNetns, k.groups)
	if err == nil {
		dir, err = probeCgroup(dir, k.groups)
	}
	if errors.Is(err, errNoKubelet) {
		if b, rerr := os.ReadFile(kept); rerr == nil {
			if _, serr := os.Stat(string(b)); serr == nil {
				dir, err = probeCgroup(string(b), k.groups)
				return dir, 0, err
			}
		}
	}
	if err != nil || dir == k.dir {
		return dir, pid, err
	}
	if err := os.WriteFile(kept, []byte(dir), 0o600); err != nil {
		k.cfg.Log.Warn("keep where the kubelet is", "err", err)
	}
	return dir, pid, nil
}

// tellSharers warns of processes beside the kubelet, whose connections are probes as well. What the kubelet itself
// starts does not count.
func (k *kubelet) tellSharers() {
	all, _ := pids(k.dir)
	var names []string
	for _, pid := range all {
		name, parent := statOf(filepath.Join(k.cfg.Proc, strconv.Itoa(pid)))
		if pid != k.pid && parent != k.pid && name != "" && !slices.Contains(names, name) {
			names = append(names, name)
		}
	}
	if len(names) > 0 {
		k.cfg.Log.Warn("others share the kubelet's cgroup: what they connect to passes as a probe, STRICT or not; give the kubelet a cgroup of its own",
			"cgroup", k.dir, "processes", names)
	}
}

// statOf returns a process's name and its parent.
func statOf(dir string) (name string, parent int) {
	b, err := os.ReadFile(filepath.Join(dir, "stat"))
	if err != nil {
		return "", 0
	}
	// 12 (a name) S 1 ...: the name may have anything in it.
	from, to := bytes.IndexByte(b, '('), bytes.LastIndexByte(b, ')')
	if from < 0 || to < from {
		return "", 0
	}
	if f := bytes.Fields(b[to+1:]); len(f) > 1 {
		parent, _ = strconv.Atoi(string(f[1]))
	}
	return string(b[from+1 : to]), parent
}

// errHoldsPods: with such a cgroup every pod's connection would be a probe.
var errHoldsPods = errors.New("it contains the pods")

// probeCgroup checks a cgroup that is to be the kubelet's; a path is below the root of the hierarchy.
func probeCgroup(path string, groups cgroups) (string, error) {
	if !strings.HasPrefix(path, groups.root) {
		path = filepath.Join(groups.root, path)
	}
	path = filepath.Clean(path)
	if groups.pods == path || strings.HasPrefix(groups.pods, path+"/") {
		return "", fmt.Errorf("use kubelet's cgroup %s: %w (%s); give kubelet a leaf cgroup of its own", path, errHoldsPods, groups.pods)
	}
	return path, nil
}

// findKubelet goes over the node's processes. What a pod calls its processes does not count.
func findKubelet(proc, hostNetns string, groups cgroups) (dir string, pid int, err error) {
	var host unix.Stat_t
	if err := unix.Stat(hostNetns, &host); err != nil {
		return "", 0, fmt.Errorf("find the kubelet: %s: %w", hostNetns, os.NewSyscallError("stat", err))
	}
	entries, err := os.ReadDir(proc)
	if err != nil {
		return "", 0, fmt.Errorf("find the kubelet: %w", err)
	}
	var found []int
	for _, e := range entries {
		pid, err := strconv.Atoi(e.Name())
		if err != nil {
			continue
		}
		var owner, ns unix.Stat_t
		dir := filepath.Join(proc, e.Name())
		if !calledKubelet(dir) || unix.Stat(dir, &owner) != nil || unix.Stat(filepath.Join(dir, "ns/net"), &ns) != nil {
			continue
		}
		if owner.Uid == 0 && ns.Ino == host.Ino {
			found = append(found, pid)
		}
	}
	return groups.outside(found)
}

// calledKubelet says whether the process at dir was started as kubelet, or as `PROGRAM kubelet --...`: the flags tell a
// program of many from one that is merely told of a file or a unit, such as an editor.
func calledKubelet(dir string) bool {
	b, err := os.ReadFile(filepath.Join(dir, "cmdline"))
	if err != nil {
		return false
	}
	args := bytes.SplitN(b, []byte{0}, 3)
	return filepath.Base(string(args[0])) == "kubelet" ||
		len(args) > 2 && string(args[1]) == "kubelet" && bytes.HasPrefix(args[2], []byte("--"))
}

// outside returns the cgroup, outside of the pods', that holds one of the processes.
func (c cgroups) outside(processes []int) (found string, pid int, err error) {
	err = filepath.WalkDir(c.root, func(path string, d fs.DirEntry, err error) error {
		switch {
		case errors.Is(err, fs.ErrNotExist):
			return nil // ended while we looked
		case err != nil:
			return err
		case !d.IsDir():
			return nil
		case path == c.pods && c.pods != c.root:
			return fs.SkipDir
		}
		own, err := ownPIDs(path)
		if i := slices.IndexFunc(own, func(pid int) bool { return slices.Contains(processes, pid) }); err == nil && i >= 0 {
			found, pid = path, own[i]
			return fs.SkipAll
		}
		return nil
	})
	if err != nil {
		return "", 0, fmt.Errorf("find the kubelet: %w", err)
	}
	if found == "" {
		return "", 0, fmt.Errorf("find the kubelet: %w", errNoKubelet)
	}
	return found, pid, nil
}

// cgroupID tells a cgroup from another that was made at the same path.
func cgroupID(path string) (uint64, error) {
	fi, err := os.Stat(path)
	if err != nil {
		return 0, err
	}
	return fi.Sys().(*syscall.Stat_t).Ino, nil
}
