// SPDX-License-Identifier: Apache-2.0

package machine

import (
	"errors"
	"fmt"
	"log"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"time"
)

// restartDelay is how long pid 1 waits before it starts a service again that ended by itself or was killed.
const restartDelay = time.Second

// supervisor keeps services running. It is pid 1: it also reaps whatever else ends in the machine.
type supervisor struct {
	spec Spec

	mu       sync.Mutex
	services map[string]*running
}

type running struct {
	service  Service
	pid      int // 0 while it does not run
	wanted   bool
	restarts int
	exit     string
	ended    chan struct{} // closed when the present process has ended
}

func newSupervisor(s Spec) *supervisor {
	return &supervisor{spec: s, services: map[string]*running{}}
}

func (v *supervisor) start(svc Service) error {
	v.mu.Lock()
	defer v.mu.Unlock()
	r := v.services[svc.Name]
	switch {
	case r == nil && len(svc.Args) == 0:
		return fmt.Errorf("start %s: no such service", svc.Name)
	case r == nil:
		r = &running{service: svc}
		v.services[svc.Name] = r
	case len(svc.Args) > 0:
		r.service = svc
	}
	r.wanted = true
	if r.pid != 0 {
		return nil
	}
	return v.spawn(r)
}

// spawn is called with the lock held, so that the reaper can't see the end of a process it doesn't know yet.
func (v *supervisor) spawn(r *running) error {
	path := v.spec.logFile(r.service.Name)
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return fmt.Errorf("start %s: %w", r.service.Name, err)
	}
	out, err := os.OpenFile(path, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o644)
	if err != nil {
		return fmt.Errorf("start %s: %w", r.service.Name, err)
	}
	defer out.Close()
	argv := append([]string{"warren-testmachine", "leaf", v.spec.Dir, r.service.Name, "--"}, r.service.Args...)
	cmd := &exec.Cmd{Path: "/proc/self/exe", Args: argv, Env: append(os.Environ(), r.service.Env...), Stdout: out, Stderr: out,
		Dir: "/", SysProcAttr: &syscall.SysProcAttr{Setsid: true}}
	if err := cmd.Start(); err != nil {
		return fmt.Errorf("start %s: %w", r.service.Name, err)
	}
	r.pid, r.ended = cmd.Process.Pid, make(chan struct{})
	_ = cmd.Process.Release() // the reaper waits for it
	return nil
}

// reap waits for every child, services and orphans alike.
func (v *supervisor) reap() {
	for {
		var status syscall.WaitStatus
		pid, err := syscall.Wait4(-1, &status, 0, nil)
		switch {
		case errors.Is(err, syscall.EINTR):
			continue
		case err != nil: // no children
			time.Sleep(20 * time.Millisecond)
			continue
		}
		v.mu.Lock()
		for _, r := range v.services {
			if r.pid == pid {
				v.note(r, status)
			}
		}
		v.mu.Unlock()
	}
}

func (v *supervisor) note(r *running, status syscall.WaitStatus) {
	r.pid = 0
	r.exit = fmt.Sprintf("status %d", status.ExitStatus())
	if status.Signaled() {
		r.exit = "signal " + status.Signal().String()
	}
	close(r.ended)
	if !r.wanted {
		return
	}
	log.Printf("%s ended: %s", r.service.Name, r.exit)
	time.AfterFunc(restartDelay, func() {
		v.mu.Lock()
		defer v.mu.Unlock()
		if !r.wanted || r.pid != 0 {
			return
		}
		r.restarts++
		if err := v.spawn(r); err != nil {
			log.Print(err)
		}
	})
}

// signal sends to the service's present process; it is started again if that ends it.
func (v *supervisor) signal(name string, sig syscall.Signal) error {
	v.mu.Lock()
	defer v.mu.Unlock()
	r := v.services[name]
	if r == nil || r.pid == 0 {
		return fmt.Errorf("signal %s: it does not run", name)
	}
	return syscall.Kill(r.pid, sig)
}

// stop ends the service and keeps it down: SIGTERM, then SIGKILL after grace.
func (v *supervisor) stop(name string, grace time.Duration) error {
	v.mu.Lock()
	r := v.services[name]
	if r == nil {
		v.mu.Unlock()
		return fmt.Errorf("stop %s: no such service", name)
	}
	r.wanted = false
	pid, ended := r.pid, r.ended
	if pid == 0 {
		v.mu.Unlock()
		return nil
	}
	_ = syscall.Kill(pid, syscall.SIGTERM)
	v.mu.Unlock()
	select {
	case <-ended:
		return nil
	case <-time.After(grace):
	}
	v.mu.Lock()
	if r.pid == pid {
		_ = syscall.Kill(pid, syscall.SIGKILL)
	}
	v.mu.Unlock()
	<-ended
	return nil
}

func (v *supervisor) status() []Status {
	v.mu.Lock()
	defer v.mu.Unlock()
	var all []Status
	for name, r := range v.services {
		all = append(all, Status{Name: name, Running: r.pid != 0, Wanted: r.wanted, Restarts: r.restarts, Exit: r.exit})
	}
	slices.SortFunc(all, func(a, b Status) int { return strings.Compare(a.Name, b.Name) })
	return all
}
