// SPDX-License-Identifier: Apache-2.0

package netns

import (
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"
)

// owner names a process so that another one that gets the same pid later is told apart: "pid-starttime".
func owner(pid int) string { return fmt.Sprintf("%d-%s", pid, startTime(pid)) }

// startTime is field 22 of /proc/pid/stat, "" when there is no such process.
func startTime(pid int) string {
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return ""
	}
	text := string(b)
	fields := strings.Fields(text[strings.LastIndexByte(text, ')')+1:]) // the name before may hold blanks
	if len(fields) < 20 {
		return ""
	}
	return fields[19]
}

// orphaned says whether a name "warren-pid-starttime-n" belongs to a process that no longer runs.
func orphaned(name string) bool {
	parts := strings.Split(name, "-")
	if len(parts) != 4 || parts[0] != "warren" {
		return false
	}
	pid, err := strconv.Atoi(parts[1])
	return err == nil && startTime(pid) != parts[2]
}

// Sweep removes what runs that crashed left behind: their processes, cgroups and directories. It names what it removed.
// Runs whose process lives are left alone.
func Sweep() []string {
	var out []string
	mount, err := cgroupMount()
	if err != nil {
		return nil
	}
	cgroups, _ := filepath.Glob(filepath.Join(mount, "warren-*"))
	for _, dir := range cgroups {
		if !orphaned(filepath.Base(dir)) {
			continue
		}
		if err := killCgroup(dir, 5*time.Second); err == nil {
			err = removeCgroup(dir)
			if err == nil {
				out = append(out, dir)
			}
		}
	}
	dirs, _ := filepath.Glob(filepath.Join(os.TempDir(), "warren-*"))
	for _, dir := range dirs {
		if orphaned(filepath.Base(dir)) && os.RemoveAll(dir) == nil {
			out = append(out, dir)
		}
	}
	return out
}
