// SPDX-License-Identifier: Apache-2.0

package record

import (
	"syscall"
	"unsafe"
)

// Reads and writes here use RawSyscall, because a call that can't block need not tell the scheduler. Telling it costs
// more than the call where there is little to do: each such call of an idle process wakes the runtime's watchdog thread (sysmon).

// readNow reads a socket without waiting.
func readNow(fd uintptr, p []byte) (int, syscall.Errno) {
	return transfer(syscall.SYS_RECVFROM, fd, p, 0)
}

// writeNow writes to a socket without waiting, as much as it takes. p is not empty.
func writeNow(fd uintptr, p []byte) (int, syscall.Errno) {
	return transfer(syscall.SYS_SENDTO, fd, p, syscall.MSG_NOSIGNAL)
}

func transfer(trap, fd uintptr, p []byte, flags uintptr) (int, syscall.Errno) {
	for {
		n, _, errno := syscall.RawSyscall6(trap, fd, uintptr(unsafe.Pointer(&p[0])), uintptr(len(p)), flags|syscall.MSG_DONTWAIT, 0, 0)
		if errno == syscall.EINTR {
			continue
		}
		if errno != 0 {
			return 0, errno
		}
		return int(n), 0
	}
}
