// SPDX-License-Identifier: Apache-2.0

// Package seal takes from a running process whatever it does not need any more: capabilities, the gain of new
// privileges, and all system calls but those of a program that moves bytes between sockets it was given. After
// it, nobody who takes the process over can open a socket or a file, start a program, or run code of their own
// making from memory.
package seal

import (
	"errors"
	"fmt"
	"os"
	"runtime"
	"syscall"
	"unsafe"

	"golang.org/x/sys/unix"
)

// Mode says what a forbidden system call does.
type Mode uint8

const (
	// Kill ends the process at once.
	Kill Mode = iota
	// Errno makes the call fail with EPERM: for finding out what was called.
	Errno
)

// Seal closes the process for good, all its threads. Before it, everything that Go loads when first needed is
// loaded (see warm); after it, opening anything is fatal or fails, as the mode says. Runtime profiles in proto
// form, and Prometheus' metrics of the process, read /proc, so they must not be asked for. A binary with cgo (the race detector's) must
// be started with MALLOC_ARENA_MAX=1. It fails where the kernel lacks seccomp or
// where a privilege can't be dropped; the process is then not sealed and should end.
func Seal(mode Mode) error {
	warm()
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	if err := dropCapabilities(); err != nil {
		return fmt.Errorf("seal: %w", err)
	}
	// Not readable by others of the same user, and no core file with keys in it.
	if err := unix.Prctl(unix.PR_SET_DUMPABLE, 0, 0, 0, 0); err != nil {
		return fmt.Errorf("seal: %w", os.NewSyscallError("prctl PR_SET_DUMPABLE", err))
	}
	if err := unix.Prctl(unix.PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0); err != nil {
		return fmt.Errorf("seal: %w", os.NewSyscallError("prctl PR_SET_NO_NEW_PRIVS", err))
	}
	program, err := filter(mode, os.Getpid())
	if err != nil {
		return fmt.Errorf("seal: %w", err)
	}
	fprog := unix.SockFprog{Len: uint16(len(program)), Filter: &program[0]}
	// TSYNC puts every thread under the filter, and gives them all no_new_privs.
	r, _, errno := unix.Syscall(unix.SYS_SECCOMP, unix.SECCOMP_SET_MODE_FILTER, unix.SECCOMP_FILTER_FLAG_TSYNC, uintptr(unsafe.Pointer(&fprog)))
	runtime.KeepAlive(program)
	if errno != 0 {
		return fmt.Errorf("seal: %w", os.NewSyscallError("seccomp", errno))
	}
	if r != 0 {
		return fmt.Errorf("seal: thread %d can't take the filter (it has one of its own)", r)
	}
	return nil
}

// dropCapabilities empties all sets of all threads. Emptying the bounding set takes a capability; with no
// permitted one and no_new_privs it has nothing to bound.
func dropCapabilities() error {
	type header struct {
		version uint32
		pid     int32
	}
	h := header{version: unix.LINUX_CAPABILITY_VERSION_3}
	var none [2]unix.CapUserData
	_, _, errno := syscall.AllThreadsSyscall(unix.SYS_PRCTL, unix.PR_CAP_AMBIENT, unix.PR_CAP_AMBIENT_CLEAR_ALL, 0)
	if errno == 0 {
		_, _, errno = syscall.AllThreadsSyscall(unix.SYS_CAPSET, uintptr(unsafe.Pointer(&h)), uintptr(unsafe.Pointer(&none)), 0)
	}
	if errno != 0 && errno != syscall.ENOTSUP {
		return os.NewSyscallError("capset", errno)
	}
	// A binary with cgo can't change all threads; there, the process must have been started without capabilities.
	var have [2]unix.CapUserData
	if err := unix.Capget(&unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}, &have[0]); err != nil {
		return os.NewSyscallError("capget", err)
	}
	if have[0].Permitted|have[1].Permitted|have[0].Effective|have[1].Effective != 0 {
		return errors.New("capabilities are left (start the process without any)")
	}
	return nil
}
