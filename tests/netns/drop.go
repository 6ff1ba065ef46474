// SPDX-License-Identifier: Apache-2.0

package netns

import (
	"encoding/json"
	"fmt"
	"os"
	"runtime"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"
)

// dropVariable carries a privileges value in JSON to the re-executed binary.
const dropVariable = "WARREN_NETNS_DROP"

// privileges is what a container's securityContext would say.
type privileges struct {
	UID, GID     int
	Groups       []int     // supplementary
	Capabilities []uintptr // for UID 0: the bounding set; others get none
	NoNewPrivs   bool
}

// wrap returns the environment variables that make this binary give up all but p and then execute what follows.
func (p privileges) wrap() []string {
	b, err := json.Marshal(p)
	if err != nil {
		panic(err) // a struct of numbers
	}
	return []string{roleVariable + "=" + roleDrop, dropVariable + "=" + string(b)}
}

// drop gives up privileges and executes os.Args[1:]. It returns only with an error.
func drop() error {
	var p privileges
	if err := json.Unmarshal([]byte(os.Getenv(dropVariable)), &p); err != nil {
		return fmt.Errorf("drop privileges: %w", err)
	}
	runtime.LockOSThread() // the bounding set is the thread's; execve keeps the calling thread's credentials
	if err := p.bound(); err != nil {
		return err
	}
	if err := syscall.Setgroups(p.Groups); err != nil {
		return os.NewSyscallError("setgroups", err)
	}
	if err := syscall.Setgid(p.GID); err != nil {
		return os.NewSyscallError("setgid", err)
	}
	if err := syscall.Setuid(p.UID); err != nil {
		return os.NewSyscallError("setuid", err)
	}
	if p.NoNewPrivs {
		if err := unix.Prctl(unix.PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0); err != nil {
			return os.NewSyscallError("prctl no_new_privs", err)
		}
	}
	var env []string
	for _, e := range os.Environ() {
		if !strings.HasPrefix(e, roleVariable+"=") && !strings.HasPrefix(e, dropVariable+"=") {
			env = append(env, e)
		}
	}
	return fmt.Errorf("execute %s: %w", os.Args[1], syscall.Exec(os.Args[1], os.Args[1:], env))
}

// bound takes every capability that isn't listed out of the bounding set.
func (p privileges) bound() error {
	keep := map[uintptr]bool{}
	for _, c := range p.Capabilities {
		keep[c] = true
	}
	for c := uintptr(0); c <= unix.CAP_LAST_CAP; c++ {
		if keep[c] {
			continue
		}
		if err := unix.Prctl(unix.PR_CAPBSET_DROP, c, 0, 0, 0); err != nil && err != unix.EINVAL {
			return fmt.Errorf("drop capability %d: %w", c, err)
		}
	}
	return nil
}
