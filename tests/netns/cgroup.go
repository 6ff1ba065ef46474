// SPDX-License-Identifier: Apache-2.0

package netns

import (
	"bufio"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"
)

// cgroupMount finds where cgroup v2 is mounted: /sys/fs/cgroup, or /sys/fs/cgroup/unified beside version 1.
func cgroupMount() (string, error) {
	f, err := os.Open("/proc/mounts")
	if err != nil {
		return "", err
	}
	defer f.Close()
	for s := bufio.NewScanner(f); s.Scan(); {
		if fields := strings.Fields(s.Text()); len(fields) > 2 && fields[2] == "cgroup2" {
			return fields[1], nil
		}
	}
	return "", errors.New("no cgroup2 in /proc/mounts (mount -t cgroup2 none /sys/fs/cgroup)")
}

// cgroupProcs returns the processes of the cgroup and of all below it.
func cgroupProcs(dir string) []int {
	var out []int
	_ = filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.Name() != "cgroup.procs" {
			return nil
		}
		b, _ := os.ReadFile(path)
		for line := range strings.Lines(string(b)) {
			if pid, err := strconv.Atoi(strings.TrimSpace(line)); err == nil {
				out = append(out, pid)
			}
		}
		return nil
	})
	return out
}

// killCgroup kills every process of the cgroup and below, and waits until they are gone.
func killCgroup(dir string, deadline time.Duration) error {
	if _, err := os.Stat(dir); err != nil {
		return nil
	}
	if err := os.WriteFile(filepath.Join(dir, "cgroup.kill"), []byte("1"), 0); err != nil {
		return fmt.Errorf("kill cgroup: %w", err)
	}
	for end := time.Now().Add(deadline); ; time.Sleep(2 * time.Millisecond) {
		b, err := os.ReadFile(filepath.Join(dir, "cgroup.events"))
		if err != nil || strings.Contains(string(b), "populated 0") {
			return nil
		}
		if time.Now().After(end) {
			return fmt.Errorf("kill cgroup %s: still there after %v: %s", dir, deadline, describe(cgroupProcs(dir)))
		}
	}
}

// removeCgroup removes the cgroup and all below it, deepest first. It must hold no process.
func removeCgroup(dir string) error {
	entries, err := os.ReadDir(dir)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	for _, e := range entries {
		if e.IsDir() {
			if err := removeCgroup(filepath.Join(dir, e.Name())); err != nil {
				return err
			}
		}
	}
	for end := time.Now().Add(time.Second); ; time.Sleep(2 * time.Millisecond) {
		// A cgroup stays busy for a moment after its last process was reaped.
		if err = os.Remove(dir); err == nil || errors.Is(err, fs.ErrNotExist) {
			return nil
		}
		if time.Now().After(end) {
			return fmt.Errorf("remove cgroup: %w", err)
		}
	}
}

// describe names processes: "4711 (warren-agent), 4712 (sleep)".
func describe(pids []int) string {
	var out []string
	for _, pid := range pids {
		comm, _ := os.ReadFile(fmt.Sprintf("/proc/%d/comm", pid))
		out = append(out, fmt.Sprintf("%d (%s)", pid, strings.TrimSpace(string(comm))))
	}
	return strings.Join(out, ", ")
}
