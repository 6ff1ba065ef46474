// SPDX-License-Identifier: Apache-2.0

package machine

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"
)

// maxSocketPath is what fits into sockaddr_un with its final zero.
const maxSocketPath = 107

// Machine is one machine seen from outside. Safe for concurrent use.
type Machine struct {
	Spec
	Program string // path of the warren-testmachine binary
	PID     int    // of its pid 1, as this machine counts
}

// Create makes the machine's directory and cgroups (named cgroup) and writes its specification; Boot starts it.
func Create(program, cgroup string, s Spec) (*Machine, error) {
	if len(s.socket()) > maxSocketPath {
		return nil, fmt.Errorf("create machine %s: %s is longer than a Unix socket's path may be (choose a shorter state directory)", s.Name, s.socket())
	}
	if err := os.MkdirAll(filepath.Join(s.Dir, "log"), 0o755); err != nil {
		return nil, fmt.Errorf("create machine: %w", err)
	}
	cgroups, err := makeCgroups(cgroup)
	if err != nil {
		return nil, err
	}
	s.Cgroups = cgroups
	b, err := json.MarshalIndent(s, "", "  ")
	if err != nil {
		return nil, fmt.Errorf("write machine: %w", err)
	}
	if err := os.WriteFile(s.specFile(), b, 0o644); err != nil {
		return nil, fmt.Errorf("write machine: %w", err)
	}
	return &Machine{Spec: s, Program: program}, nil
}

// Open finds a machine that another process made; its PID is 0 when it doesn't run.
func Open(program, dir string) (*Machine, error) {
	s, err := readSpec(dir)
	if err != nil {
		return nil, err
	}
	m := &Machine{Spec: s, Program: program}
	b, err := os.ReadFile(s.pidFile())
	if err != nil {
		return m, nil
	}
	f := strings.Fields(string(b))
	if len(f) != 2 {
		return m, nil
	}
	pid, err := strconv.Atoi(f[0])
	if err != nil {
		return m, nil
	}
	if t, err := startTime(pid); err == nil && t == f[1] {
		m.PID = pid
	}
	return m, nil
}

// Boot starts pid 1 with the inherited listeners and waits until it takes orders. The machine outlives the caller.
func (m *Machine) Boot(ctx context.Context, listeners ...*net.TCPListener) error {
	out, err := os.OpenFile(m.logFile("machine"), os.O_CREATE|os.O_APPEND|os.O_RDWR, 0o644)
	if err != nil {
		return fmt.Errorf("boot %s: %w", m.Name, err)
	}
	defer out.Close()
	_ = os.Remove(m.socket())
	cmd := exec.Command(m.Program, "boot", m.Dir)
	cmd.Stdout, cmd.Stderr = out, out
	cmd.Env = []string{"PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "HOME=/root", "LANG=C"}
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true,
		Cloneflags: syscall.CLONE_NEWNS | syscall.CLONE_NEWPID | syscall.CLONE_NEWUTS | syscall.CLONE_NEWNET}
	for _, l := range listeners {
		f, err := l.File()
		if err != nil {
			return fmt.Errorf("boot %s: %w", m.Name, err)
		}
		defer f.Close()
		cmd.ExtraFiles = append(cmd.ExtraFiles, f)
	}
	if err := cmd.Start(); err != nil {
		return fmt.Errorf("boot %s: %w", m.Name, err)
	}
	m.PID = cmd.Process.Pid
	ended := make(chan error, 1)
	go func() { ended <- cmd.Wait() }()
	if t, err := startTime(m.PID); err == nil {
		if err := os.WriteFile(m.pidFile(), fmt.Appendf(nil, "%d %s\n", m.PID, t), 0o644); err != nil {
			return fmt.Errorf("boot %s: %w", m.Name, err)
		}
	}
	for {
		if _, err := m.send(ctx, order{Do: "status"}); err == nil {
			return nil
		}
		select {
		case err := <-ended:
			b, _ := os.ReadFile(out.Name())
			return fmt.Errorf("boot %s: pid 1 ended: %w: %s", m.Name, err, lastLine(b))
		case <-ctx.Done():
			return fmt.Errorf("boot %s: %w", m.Name, ctx.Err())
		case <-time.After(5 * time.Millisecond):
		}
	}
}

func lastLine(b []byte) string {
	lines := strings.Split(strings.TrimSpace(string(b)), "\n")
	return lines[len(lines)-1]
}

// Kill ends the machine as a power failure would: every process of it, at once. Its files stay, and its cgroups, empty.
func (m *Machine) Kill(ctx context.Context) error {
	dirs := m.CgroupDirs()
	if m.PID != 0 {
		if err := syscall.Kill(m.PID, syscall.SIGKILL); err != nil && !errors.Is(err, syscall.ESRCH) {
			return fmt.Errorf("kill machine %s: %w", m.Name, err)
		}
	}
	for {
		_, err := startTime(m.PID)
		left := 0
		for _, d := range dirs {
			left += len(processesBelow(d))
		}
		// The cgroups below go as they would with the power; a kubelet takes some seconds for each it doesn't know.
		if err != nil && left == 0 && emptyTrees(dirs) == nil {
			m.PID = 0
			return nil
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("kill machine %s: %d processes are left: %w", m.Name, left, ctx.Err())
		case <-time.After(5 * time.Millisecond):
		}
	}
}

// Start starts the service, or the one of that name that was started before when it has no arguments.
func (m *Machine) Start(ctx context.Context, s Service) error {
	_, err := m.send(ctx, order{Do: "start", Service: s})
	return err
}

// Stop ends the service and keeps it down until Start; after grace it is killed.
func (m *Machine) Stop(ctx context.Context, name string, grace time.Duration) error {
	_, err := m.send(ctx, order{Do: "stop", Service: Service{Name: name}, Grace: grace})
	return err
}

// Signal sends a signal to the service's process. Unless it was stopped before, it is started again a second after its end.
func (m *Machine) Signal(ctx context.Context, name string, sig syscall.Signal) error {
	_, err := m.send(ctx, order{Do: "signal", Service: Service{Name: name}, Signal: sig})
	return err
}

// Services tells how each service fares.
func (m *Machine) Services(ctx context.Context) ([]Status, error) {
	return m.send(ctx, order{Do: "status"})
}

// Command prepares a program to run in the machine, in its leaf cgroup "host". When ctx ends, what it started is killed.
func (m *Machine) Command(ctx context.Context, args ...string) *exec.Cmd {
	cmd := exec.CommandContext(ctx, m.Program, append([]string{"enter", m.Dir, strconv.Itoa(m.PID), "--"}, args...)...)
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	cmd.Cancel = func() error { return syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL) }
	cmd.WaitDelay = time.Second
	return cmd
}

// Run runs a program in the machine and returns what it printed; the error holds what it printed to standard error.
func (m *Machine) Run(ctx context.Context, stdin io.Reader, args ...string) ([]byte, error) {
	cmd := m.Command(ctx, args...)
	var stderr bytes.Buffer
	cmd.Stdin, cmd.Stderr = stdin, &stderr
	out, err := cmd.Output()
	if err != nil {
		return out, fmt.Errorf("run %s in %s: %w: %s", args[0], m.Name, err, strings.TrimSpace(stderr.String()))
	}
	return out, nil
}

// CgroupDirs are the machine's directories, one in each hierarchy.
func (m *Machine) CgroupDirs() []string {
	dirs := make([]string, len(m.Cgroups))
	for i, c := range m.Cgroups {
		dirs[i] = c.Dir
	}
	return dirs
}

// UnifiedCgroup is the machine's cgroup2 directory, as this machine sees it.
func (m *Machine) UnifiedCgroup() string {
	for _, c := range m.Cgroups {
		if c.Controllers == "" {
			return c.Dir
		}
	}
	return ""
}
