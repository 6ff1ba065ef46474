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

	"golang.org/x/sys/unix"
)

// KubeletAuto as Config.KubeletCgroup looks for the kubelet's process.
const KubeletAuto = "auto"

// kubeletFile, in the state directory, is where the kubelet was found last: it may be away while the broker starts.
const kubeletFile = "kubelet-cgroup"

var errNoKubelet = errors.New("no process of root's is called kubelet, in the host's network and outside of the pods' cgroup")

// kubeletCgroup finds the directory of the kubelet's cgroup. An error means that probes are not told from other
// connections, no more.
func kubeletCgroup(cfg Config, groups cgroups) (string, error) {
	dir, err := findKubelet(cfg.Proc, cfg.HostNetns, groups)
	kept := filepath.Join(cfg.StateDir, kubeletFile)
	if errors.Is(err, errNoKubelet) {
		if b, rerr := os.ReadFile(kept); rerr == nil {
			if _, serr := os.Stat(string(b)); serr == nil {
				return string(b), nil
			}
		}
	}
	if err != nil {
		return "", err
	}
	if err := os.WriteFile(kept, []byte(dir), 0o600); err != nil {
		cfg.Log.Warn("keep where the kubelet is", "err", err)
	}
	return dir, nil
}

// findKubelet goes over the node's processes. What a pod calls its processes does not count.
func findKubelet(proc, hostNetns string, groups cgroups) (string, error) {
	var host unix.Stat_t
	if err := unix.Stat(hostNetns, &host); err != nil {
		return "", fmt.Errorf("find the kubelet: %s: %w", hostNetns, os.NewSyscallError("stat", err))
	}
	entries, err := os.ReadDir(proc)
	if err != nil {
		return "", fmt.Errorf("find the kubelet: %w", err)
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

// calledKubelet says whether the process at dir was started as kubelet, or as `PROGRAM kubelet`.
func calledKubelet(dir string) bool {
	b, err := os.ReadFile(filepath.Join(dir, "cmdline"))
	if err != nil {
		return false
	}
	args := bytes.SplitN(b, []byte{0}, 3)
	return filepath.Base(string(args[0])) == "kubelet" || len(args) > 1 && string(args[1]) == "kubelet"
}

// outside returns the cgroup, outside of the pods', that holds one of the processes.
func (c cgroups) outside(processes []int) (string, error) {
	found := ""
	err := filepath.WalkDir(c.root, func(path string, d fs.DirEntry, err error) error {
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
		if err == nil && slices.ContainsFunc(own, func(pid int) bool { return slices.Contains(processes, pid) }) {
			found = path
			return fs.SkipAll
		}
		return nil
	})
	if err != nil {
		return "", fmt.Errorf("find the kubelet: %w", err)
	}
	if found == "" {
		return "", fmt.Errorf("find the kubelet: %w", errNoKubelet)
	}
	return found, nil
}
