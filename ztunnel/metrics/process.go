// SPDX-License-Identifier: Apache-2.0

package metrics

import (
	"errors"
	"fmt"
	"io"
	"math"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"golang.org/x/sys/unix"
)

// The names are those of Prometheus' own collector, which opens files in /proc at each scrape.
var (
	cpuDesc      = desc("process_cpu_seconds_total", "Total user and system CPU time spent in seconds.")
	openFDsDesc  = desc("process_open_fds", "Number of open file descriptors.")
	maxFDsDesc   = desc("process_max_fds", "Maximum number of open file descriptors.")
	virtualDesc  = desc("process_virtual_memory_bytes", "Virtual memory size in bytes.")
	residentDesc = desc("process_resident_memory_bytes", "Resident memory size in bytes.")
	startDesc    = desc("process_start_time_seconds", "Start time of the process since unix epoch in seconds.")
)

// ticks is what times in /proc are counted in, per second: USER_HZ, the same on all architectures that there is a seal for.
const ticks = 100

// Process tells what this process takes of the machine, by files that are opened once: a sealed process opens none.
type Process struct {
	stat, fds *os.File
	maxFDs    float64
	boot      float64 // of the machine, seconds since the epoch
}

// OpenProcess opens what is needed, below where procfs is. To be called before the process seals itself; what it opened stays
// open as long as the process lives.
func OpenProcess(proc string) (p *Process, err error) {
	defer func() {
		if err != nil {
			err = fmt.Errorf("measure the process: %w", err)
		}
	}()
	boot, err := bootTime(filepath.Join(proc, "stat"))
	if err != nil {
		return nil, err
	}
	var most unix.Rlimit
	if err := unix.Getrlimit(unix.RLIMIT_NOFILE, &most); err != nil {
		return nil, os.NewSyscallError("getrlimit", err)
	}
	p = &Process{maxFDs: float64(most.Cur), boot: boot}
	if p.stat, err = os.Open(filepath.Join(proc, "self/stat")); err != nil {
		return nil, err
	}
	if p.fds, err = os.Open(filepath.Join(proc, "self/fd")); err != nil {
		_ = p.stat.Close()
		return nil, err
	}
	return p, nil
}

func bootTime(path string) (float64, error) {
	b, err := os.ReadFile(path)
	if err != nil {
		return 0, err
	}
	for line := range strings.Lines(string(b)) {
		if s, ok := strings.CutPrefix(line, "btime "); ok {
			return strconv.ParseFloat(strings.TrimSpace(s), 64)
		}
	}
	return 0, fmt.Errorf("%s has no btime", path)
}

// usedBy is what /proc/PID/stat tells of a process.
type usedBy struct {
	cpu, started      time.Duration // since it began, and since the machine did
	virtual, resident float64       // bytes
}

// parseStat reads it. The command's name in it may hold anything, and ends with the last bracket.
func parseStat(s string) (u usedBy, err error) {
	f := strings.Fields(s[strings.LastIndexByte(s, ')')+1:])
	number := func(i int) float64 { // as proc(5) counts: the state, which is the first here, is field 3
		if i-3 >= len(f) {
			err = errors.New("too few fields")
			return 0
		}
		v, perr := strconv.ParseFloat(f[i-3], 64)
		if perr != nil {
			err = perr
		}
		return v
	}
	inTicks := func(n float64) time.Duration { return time.Duration(n * float64(time.Second) / ticks) }
	u = usedBy{
		cpu: inTicks(number(14) + number(15)), started: inTicks(number(22)),
		virtual: number(23), resident: number(24) * float64(os.Getpagesize()),
	}
	return u, err
}

// Describe implements prometheus.Collector.
func (p *Process) Describe(ch chan<- *prometheus.Desc) {
	for _, d := range []*prometheus.Desc{cpuDesc, openFDsDesc, maxFDsDesc, virtualDesc, residentDesc, startDesc} {
		ch <- d
	}
}

// Collect implements prometheus.Collector. What can't be told is left out.
func (p *Process) Collect(ch chan<- prometheus.Metric) {
	gauge := func(d *prometheus.Desc, v float64) { ch <- prometheus.MustNewConstMetric(d, prometheus.GaugeValue, v) }
	if p.maxFDs < math.MaxUint64 {
		gauge(maxFDsDesc, p.maxFDs)
	}
	// The size of that directory is how many are open, from Linux 6.2 on, and 0 before.
	if i, err := p.fds.Stat(); err == nil && i.Size() > 0 {
		gauge(openFDsDesc, float64(i.Size()))
	}
	b := make([]byte, 1024)
	n, err := p.stat.ReadAt(b, 0)
	if err != nil && !errors.Is(err, io.EOF) {
		return
	}
	u, err := parseStat(string(b[:n]))
	if err != nil {
		return
	}
	ch <- prometheus.MustNewConstMetric(cpuDesc, prometheus.CounterValue, u.cpu.Seconds())
	gauge(virtualDesc, u.virtual)
	gauge(residentDesc, u.resident)
	gauge(startDesc, p.boot+u.started.Seconds())
}
