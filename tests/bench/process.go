// SPDX-License-Identifier: Apache-2.0

package main

import (
	"fmt"
	"os"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// group is processes of a mesh that do one thing, such as all ztunnels.
type group struct {
	name string
	pids []int
}

// cpuTime is what all threads of the process have used so far, those that ended included, user and system, in
// nanoseconds: the clock of clock_getcpuclockid(3).
func cpuTime(pid int) (time.Duration, error) {
	var t unix.Timespec
	const scheduler = 2 // CPUCLOCK_SCHED: what schedstat shows
	if err := unix.ClockGettime(int32(^pid<<3|scheduler), &t); err != nil {
		return 0, fmt.Errorf("read CPU time of process %d (it may have died): %w", pid, os.NewSyscallError("clock_gettime", err))
	}
	return time.Duration(t.Nano()), nil
}

// cpuTimes is the sum over each group.
func cpuTimes(groups []group) ([]time.Duration, error) {
	out := make([]time.Duration, len(groups))
	for i, g := range groups {
		for _, pid := range g.pids {
			t, err := cpuTime(pid)
			if err != nil {
				return nil, fmt.Errorf("%s: %w", g.name, err)
			}
			out[i] += t
		}
	}
	return out, nil
}

// resident is the sum of the processes' resident memory in bytes.
func resident(pids []int) (int64, error) {
	var sum int64
	for _, pid := range pids {
		b, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
		if err != nil {
			return 0, err
		}
		_, rest, _ := strings.Cut(string(b), "VmRSS:")
		var kib int64
		if _, err := fmt.Sscan(rest, &kib); err != nil {
			return 0, fmt.Errorf("read resident memory of process %d: %w", pid, err)
		}
		sum += kib << 10
	}
	return sum, nil
}
