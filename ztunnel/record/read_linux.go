// SPDX-License-Identifier: Apache-2.0

package record

import (
	"syscall"
	"unsafe"
)

// readNow reads a socket without waiting. RawSyscall, because a call that can't block need not tell the
// scheduler: that alone is a fifth of the cost of a small request.
func readNow(fd uintptr, p []byte) (int, syscall.Errno) {
	for {
		n, _, errno := syscall.RawSyscall6(syscall.SYS_RECVFROM, fd, uintptr(unsafe.Pointer(&p[0])), uintptr(len(p)),
			syscall.MSG_DONTWAIT, 0, 0)
		if errno == syscall.EINTR {
			continue
		}
		if errno != 0 {
			return 0, errno
		}
		return int(n), 0
	}
}
