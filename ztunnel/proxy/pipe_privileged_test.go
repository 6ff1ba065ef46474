// SPDX-License-Identifier: Apache-2.0

package proxy

import (
	"fmt"
	"runtime"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/warren-mesh/warren/tests/testutil"
)

// TestPipesBeyondTheKernelsBound are not taken: a user who has its share of room in pipes gets ones of two pages, which would
// be slower than copying and stay among the idle ones for good.
func TestPipesBeyondTheKernelsBound(t *testing.T) {
	testutil.Privileged(t)
	const nobodyElses = 64999 // user, for whom the kernel counts
	result := make(chan error, 1)
	go func() {
		runtime.LockOSThread() // for good: the thread, which is another user's from here on, ends with this goroutine
		if _, _, errno := syscall.RawSyscall(syscall.SYS_SETRESUID, nobodyElses, nobodyElses, nobodyElses); errno != 0 {
			result <- fmt.Errorf("setresuid: %w", errno)
			return
		}
		result <- takeAllPipes()
	}()
	if err := <-result; err != nil {
		t.Error(err)
	}
}

// takeAllPipes takes pipes until there are none, and says what is wrong with one of them or with their end.
func takeAllPipes() error {
	const mostEver = 2048 // of 64 KiB are twice what the kernel allows one user by default
	var all []pipe
	defer func() {
		for _, p := range all {
			p.close()
		}
	}()
	for len(all) < mostEver {
		p, err := getPipe()
		if err != nil {
			if len(all) == 0 {
				return err
			}
			return nil
		}
		all = append(all, p)
		size, err := unix.FcntlInt(uintptr(p.r), unix.F_GETPIPE_SZ, 0)
		if err != nil {
			return err
		}
		if size < spliceLeast {
			return fmt.Errorf("pipe %d holds %d bytes, want %d at least", len(all), size, spliceLeast)
		}
	}
	return fmt.Errorf("%d pipes, and no end", len(all))
}
