// SPDX-License-Identifier: Apache-2.0

package broker

import (
	"bytes"
	"cmp"
	"fmt"
	"math"
	"os"
	"path/filepath"
	"slices"
	"strconv"

	"golang.org/x/sys/unix"
)

// mostLooked bounds the processes of a pod whose namespaces are looked at: a pod may make any number of both, and
// each costs the loop a thread. Its sandbox's process, which is the first, is among the eldest.
const mostLooked = 64

// candidate is one process of the node. Its number is another's after it ended, its start is not.
type candidate struct {
	pid   int
	start uint64 // clock ticks since boot; 0: not known
}

// eldest sorts processes by when they started; numbers say little once they wrapped. Those that can't be read are last.
func (f *finder) eldest(pids []int) []candidate {
	out := make([]candidate, len(pids))
	for i, pid := range pids {
		start, err := f.started(pid)
		if err != nil {
			start = math.MaxUint64
		}
		out[i] = candidate{pid: pid, start: start}
	}
	slices.SortStableFunc(out, func(a, b candidate) int { return cmp.Compare(a.start, b.start) })
	return out
}

// started reads when a process started: field 22 of its stat. The second field, its name, may hold anything.
func (f *finder) started(pid int) (uint64, error) {
	b, err := os.ReadFile(filepath.Join(f.proc, strconv.Itoa(pid), "stat"))
	if err != nil {
		return 0, err
	}
	fields := bytes.Fields(b[bytes.LastIndexByte(b, ')')+1:])
	if len(fields) < 20 {
		return 0, fmt.Errorf("process %d: its stat is too short", pid)
	}
	return strconv.ParseUint(string(fields[19]), 10, 64)
}

// stays reports whether a process is still the one it was, and in the namespace.
func (f *finder) stays(p candidate, ns *namespace) bool {
	if p.start == 0 {
		return false
	}
	var st unix.Stat_t
	err := unix.Stat(filepath.Join(f.proc, strconv.Itoa(p.pid), "ns/net"), &st)
	start, serr := f.started(p.pid)
	return err == nil && serr == nil && st.Ino == ns.inode && start == p.start
}
