// SPDX-License-Identifier: Apache-2.0

// Package machine runs what looks like a computer of its own on this one: a process tree with a network, mount, cgroup,
// pid and host name of its own, whose root file system is an overlay over this machine's, so that whatever it
// writes stays in its directory. Pid 1 of it supervises services and takes orders over a Unix socket.
//
// Both sides are here: the caller's (Create, Machine) and pid 1's (Main, the whole of cmd/warren-testmachine). The
// package uses the standard library only, so that pid 1 builds anywhere in seconds.
package machine

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
)

// Spec is everything pid 1 must know about its machine.
type Spec struct {
	Name string `json:"name"` // the host name
	// Dir holds the machine's files: root (mount point), upper (what it wrote), work, log, control socket.
	Dir string `json:"dir"`
	// Cgroups are this machine's cgroup directories, one in each hierarchy.
	Cgroups []Cgroup `json:"cgroups"`
	// Binds are mounted into the new root: what is too big for an overlay, may not lie on one, or must be shared.
	Binds []Bind `json:"binds"`
	// Sysctls of the machine's own network namespace, such as net/ipv4/ip_forward.
	Sysctls map[string]string `json:"sysctls"`
	// Masked are sysctls that belong to the whole kernel: the machine sees a file of its own with this content, and
	// every other sysctl outside net/ is read-only to it.
	Masked map[string]string `json:"masked"`
	// Forwards are addresses inside the machine; connections to the nth inherited listener go to the nth of them.
	Forwards []string `json:"forwards"`
}

// Bind is a bind mount, without what is mounted below, from a path of this machine to the same or another path of the new one.
type Bind struct {
	From string `json:"from"`
	To   string `json:"to"`
}

// Service is one supervised process.
type Service struct {
	Name string   `json:"name"` // also the name of its leaf cgroup and of its log
	Args []string `json:"args"`
	Env  []string `json:"env"` // added to pid 1's own
}

// Status is what pid 1 tells about a service.
type Status struct {
	Name     string `json:"name"`
	Running  bool   `json:"running"`
	Wanted   bool   `json:"wanted"` // it is started again when it ends
	Restarts int    `json:"restarts"`
	Exit     string `json:"exit,omitempty"` // how it ended the last time
}

func (s Spec) socket() string            { return filepath.Join(s.Dir, "control.sock") }
func (s Spec) pidFile() string           { return filepath.Join(s.Dir, "pid") }
func (s Spec) specFile() string          { return filepath.Join(s.Dir, "spec.json") }
func (s Spec) logFile(svc string) string { return filepath.Join(s.Dir, "log", svc+".log") }

// Upper is where a path of the machine, written before it starts, lies on this one.
func (s Spec) Upper(path string) string { return filepath.Join(s.Dir, "upper", path) }

func readSpec(dir string) (Spec, error) {
	var s Spec
	b, err := os.ReadFile(Spec{Dir: dir}.specFile())
	if err != nil {
		return s, fmt.Errorf("read machine: %w", err)
	}
	if err := json.Unmarshal(b, &s); err != nil {
		return s, fmt.Errorf("read machine in %s: %w", dir, err)
	}
	return s, nil
}

// startTime tells one process from another that got the same pid later: field 22 of /proc/PID/stat.
func startTime(pid int) (string, error) {
	b, err := os.ReadFile("/proc/" + strconv.Itoa(pid) + "/stat")
	if err != nil {
		return "", err
	}
	// The command's name, in parentheses, may hold anything: count from the last one.
	_, rest, _ := strings.Cut(string(b[strings.LastIndexByte(string(b), ')'):]), " ")
	f := strings.Fields(rest)
	if len(f) < 20 {
		return "", fmt.Errorf("read /proc/%d/stat: %d fields", pid, len(f))
	}
	if f[0] == "Z" {
		return "", fmt.Errorf("process %d: %w", pid, os.ErrProcessDone)
	}
	return f[19], nil
}
