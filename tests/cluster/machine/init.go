// SPDX-License-Identifier: Apache-2.0

package machine

import (
	"errors"
	"fmt"
	"log"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strconv"
	"syscall"
)

// Main is the whole of cmd/warren-testmachine; it returns the exit status. Its first argument says what it is to be:
//
//	boot DIR               pid 1 of the machine in DIR, not yet in its cgroups
//	init DIR               pid 1, with the cgroup namespace
//	leaf DIR NAME -- ARGS  inside the machine: moves into the leaf cgroup NAME, then becomes ARGS
//	enter DIR PID -- ARGS  from outside: runs ARGS in the namespaces of PID, in the machine's leaf cgroup "host"
func Main(args []string) int {
	err := errors.New("want boot, init, leaf or enter")
	if len(args) > 1 {
		switch args[0] {
		case "boot":
			err = boot(args[1])
		case "init":
			err = runInit(args[1])
		case "leaf":
			err = leaf(args[1], args[2], args[4:])
		case "enter":
			err = enterMachine(args[1], args[2], args[4:])
		}
	}
	fmt.Fprintf(os.Stderr, "warren-testmachine: %v\n", err)
	return 1
}

// boot moves into the machine's cgroups and starts over in a cgroup namespace that has them as its roots: a thread
// alone gets the namespace, so the process must be replaced from that very thread.
func boot(dir string) error {
	s, err := readSpec(dir)
	if err != nil {
		return err
	}
	if err := enter(s.Cgroups, ""); err != nil {
		return err
	}
	program, err := os.Executable()
	if err != nil {
		return fmt.Errorf("find own program: %w", err)
	}
	runtime.LockOSThread()
	if err := syscall.Unshare(syscall.CLONE_NEWCGROUP); err != nil {
		return fmt.Errorf("make a cgroup namespace: %w", err)
	}
	return syscall.Exec(program, []string{"warren-testmachine", "init", dir}, os.Environ())
}

// runInit is pid 1 until the machine is killed from outside.
func runInit(dir string) error {
	s, err := readSpec(dir)
	if err != nil {
		return err
	}
	if err := syscall.Sethostname([]byte(s.Name)); err != nil {
		return fmt.Errorf("set host name: %w", err)
	}
	if err := mountRoot(s); err != nil {
		return err
	}
	inside := s
	inside.Cgroups = cgroupsInside(s.Cgroups)
	if err := enter(inside.Cgroups, "init"); err != nil {
		return err
	}
	handOn(inside.Cgroups)
	for key, value := range s.Sysctls {
		if err := os.WriteFile(filepath.Join("/proc/sys", key), []byte(value), 0); err != nil {
			return fmt.Errorf("set %s: %w", key, err)
		}
	}
	for i, target := range s.Forwards {
		f := os.NewFile(uintptr(3+i), "listener")
		l, err := net.FileListener(f)
		if err != nil {
			return fmt.Errorf("take over listener: %w", err)
		}
		_ = f.Close()
		go forward(l, target)
	}
	log.SetFlags(log.LUTC | log.Ltime | log.Lmicroseconds)
	v := newSupervisor(s)
	go v.reap()
	return v.serve()
}

// handOn passes cgroup2's controllers to the leaves; only possible, and only needed, where v1 does not hold them.
func handOn(cgroups []Cgroup) {
	if len(cgroups) != 1 || cgroups[0].Controllers != "" {
		return
	}
	for _, c := range append(NodeControllers, "cpuset", "io", "hugetlb") {
		_ = os.WriteFile(filepath.Join(cgroups[0].Dir, "cgroup.subtree_control"), []byte("+"+c), 0)
	}
}

// leaf runs inside the machine, where Dir is at the same path.
func leaf(dir, name string, args []string) error {
	s, err := readSpec(dir)
	if err != nil {
		return err
	}
	if err := enter(cgroupsInside(s.Cgroups), name); err != nil {
		return err
	}
	path, err := exec.LookPath(args[0])
	if err != nil {
		return fmt.Errorf("find %s: %w", args[0], err)
	}
	return syscall.Exec(path, args, os.Environ())
}

// enterMachine runs outside. nsenter(1) is used as it forks into the pid namespace and passes on the exit status.
func enterMachine(dir, pid string, args []string) error {
	s, err := readSpec(dir)
	if err != nil {
		return err
	}
	if _, err := strconv.Atoi(pid); err != nil {
		return fmt.Errorf("enter machine: pid %q: %w", pid, err)
	}
	if err := enter(s.Cgroups, "host"); err != nil {
		return err
	}
	nsenter, err := exec.LookPath("nsenter")
	if err != nil {
		return fmt.Errorf("enter machine: %w (apt-get install util-linux)", err)
	}
	argv := append([]string{"nsenter", "-t", pid, "-m", "-u", "-n", "-p", "-C", "--"}, args...)
	return syscall.Exec(nsenter, argv, os.Environ())
}
