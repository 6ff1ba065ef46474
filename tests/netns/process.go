// SPDX-License-Identifier: Apache-2.0

package netns

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"time"
)

// Process is one of Warren's binaries in its container: the network of its pod, the mounts of its node, a cgroup of
// its own, and the privileges it has in production. It runs as
// `warren-supervise BINARY FLAGS`. Safe for concurrent use.
type Process struct {
	Name string // warren-agent, …
	Pod  *Pod
	Log  string // file that its stdout and stderr are appended to

	args       []string
	privileges privileges
	cgroup     string

	mu   sync.Mutex
	cmd  *exec.Cmd
	done chan struct{} // closed when the supervisor has ended
	err  error         // how; read after done
}

// newProcess describes a process without starting it.
func (p *Pod) newProcess(binary, container string, pr privileges, args ...string) (*Process, error) {
	cgroup, err := p.container(container)
	if err != nil {
		return nil, err
	}
	return &Process{
		Name: binary, Pod: p, Log: p.Node.mesh.logPath(p.Node.Name + "-" + binary),
		args: args, privileges: pr, cgroup: cgroup,
	}, nil
}

// Start starts the process; it is an error if it runs.
func (p *Process) Start() error {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.runningLocked() {
		return fmt.Errorf("start %s: it runs already", p.Name)
	}
	if err := os.MkdirAll(p.cgroup, 0o755); err != nil {
		return err
	}
	log, err := os.OpenFile(p.Log, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o644)
	if err != nil {
		return err
	}
	defer log.Close()
	cmd := &exec.Cmd{
		Path:   "/proc/self/exe",
		Args:   append([]string{"drop", filepath.Join(binDir, "warren-supervise"), filepath.Join(binDir, p.Name)}, p.args...),
		Env:    append(p.privileges.wrap(), "PATH=/usr/sbin:/usr/bin:/sbin:/bin", "HOME=/", "GOTRACEBACK=all"),
		Stdout: log, Stderr: log,
		SysProcAttr: &syscall.SysProcAttr{Setsid: true},
	}
	pod, node := p.Pod.PID(), p.Pod.Node.sandbox.pid()
	if err := (place{net: pod, mnt: node, cgroup: p.cgroup}).start(cmd); err != nil {
		return fmt.Errorf("start %s: %w", p.Name, err)
	}
	done := make(chan struct{})
	p.cmd, p.done, p.err = cmd, done, nil
	go func() {
		err := cmd.Wait()
		p.mu.Lock()
		p.err = err
		p.mu.Unlock()
		close(done)
	}()
	return nil
}

func (p *Process) runningLocked() bool {
	if p.done == nil {
		return false
	}
	select {
	case <-p.done:
		return false
	default:
		return true
	}
}

// Running says whether the supervisor runs.
func (p *Process) Running() bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.runningLocked()
}

// Child is the pid of the supervised process; 0 while there is none.
func (p *Process) Child() int {
	p.mu.Lock()
	defer p.mu.Unlock()
	if !p.runningLocked() {
		return 0
	}
	for _, pid := range cgroupProcs(p.cgroup) {
		if pid != p.cmd.Process.Pid && parent(pid) == p.cmd.Process.Pid {
			return pid
		}
	}
	return 0
}

// parent reads a process's parent from /proc; 0 when it is gone.
func parent(pid int) int {
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return 0
	}
	var state string
	var ppid int
	text := string(b)
	if _, err := fmt.Sscan(text[strings.LastIndexByte(text, ')')+1:], &state, &ppid); err != nil {
		return 0
	}
	return ppid
}

// KillChild kills the supervised process with SIGKILL; its supervisor starts another. It returns the pid killed.
func (p *Process) KillChild() (int, error) {
	pid := p.Child()
	if pid == 0 {
		return 0, fmt.Errorf("kill %s: no child runs", p.Name)
	}
	return pid, syscall.Kill(pid, syscall.SIGKILL)
}

// Kill kills the whole container with SIGKILL, so that nothing restarts, and waits for its end.
func (p *Process) Kill() error {
	err := killCgroup(p.cgroup, goneWithin)
	p.mu.Lock()
	done := p.done
	p.mu.Unlock()
	if done != nil {
		<-done
	}
	if err != nil {
		return err
	}
	// A cgroup that was killed once kills what clone(2) puts into it later (seen on 6.18): Start makes a new one.
	return removeCgroup(p.cgroup)
}

// Stop sends SIGTERM and waits for an orderly end; after the deadline it kills.
func (p *Process) Stop(deadline time.Duration) error {
	p.mu.Lock()
	running, cmd, done := p.runningLocked(), p.cmd, p.done
	p.mu.Unlock()
	if !running {
		return nil
	}
	_ = cmd.Process.Signal(syscall.SIGTERM)
	select {
	case <-done:
		return nil
	case <-time.After(deadline):
		return errors.Join(fmt.Errorf("stop %s: still there %v after SIGTERM", p.Name, deadline), p.Kill())
	}
}

// Restart stops the process in order and starts it anew.
func (p *Process) Restart(deadline time.Duration) error {
	if err := p.Stop(deadline); err != nil {
		return err
	}
	return p.Start()
}

// Output returns what the process has logged so far.
func (p *Process) Output() string {
	b, _ := os.ReadFile(p.Log)
	return string(b)
}

func (p *Process) String() string { return p.Name + " on node " + p.Pod.Node.Name }
