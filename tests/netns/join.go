// SPDX-License-Identifier: Apache-2.0

package netns

import (
	"fmt"
	"os"
	"os/exec"
	"runtime"
	"syscall"

	"golang.org/x/sys/unix"
)

// place is where a process is to run: the namespaces of running processes, and a cgroup.
type place struct {
	net    int    // pid whose network and hostname namespaces to join
	mnt    int    // pid whose mount namespace to join
	cgroup string // directory
}

// start starts the command there. It joins the namespaces on a thread of its own, which ends with this call, so that
// nothing of them sticks to the test process; the cgroup is entered by clone(2) itself, before the first instruction.
func (p place) start(cmd *exec.Cmd) error {
	dir, err := os.Open(p.cgroup)
	if err != nil {
		return err
	}
	defer dir.Close()
	if cmd.SysProcAttr == nil {
		cmd.SysProcAttr = &syscall.SysProcAttr{}
	}
	cmd.SysProcAttr.UseCgroupFD = true
	cmd.SysProcAttr.CgroupFD = int(dir.Fd())
	started := make(chan error)
	go func() {
		runtime.LockOSThread() // never unlocked: the thread dies with the goroutine
		if err := p.enter(); err != nil {
			started <- err
			return
		}
		started <- cmd.Start()
	}()
	return <-started
}

// enter moves the calling thread into the place's namespaces.
func (p place) enter() error {
	// Threads of one process share their root and working directory, and a mount namespace can only be joined without.
	if err := unix.Unshare(unix.CLONE_FS); err != nil {
		return os.NewSyscallError("unshare", err)
	}
	joins := []struct {
		pid  int
		name string
		flag int
	}{{p.net, "net", unix.CLONE_NEWNET}, {p.net, "uts", unix.CLONE_NEWUTS}, {p.mnt, "mnt", unix.CLONE_NEWNS}}
	files := make([]*os.File, 0, len(joins))
	for _, j := range joins { // all are opened first: the new mount namespace may show another /proc
		f, err := os.Open(fmt.Sprintf("/proc/%d/ns/%s", j.pid, j.name))
		if err != nil {
			return err
		}
		defer f.Close()
		files = append(files, f)
	}
	for i, j := range joins {
		if err := unix.Setns(int(files[i].Fd()), j.flag); err != nil {
			return fmt.Errorf("join %s namespace of process %d: %w", j.name, j.pid, err)
		}
	}
	return nil
}
