// SPDX-License-Identifier: Apache-2.0

package proxy

import (
	"os"

	"golang.org/x/sys/unix"
)

// pipe is where the kernel keeps bytes between two sockets.
type pipe struct{ r, w int }

// pipes are empty ones to be used again; more than it holds are closed. The kernel counts the room of idle pipes too,
// and beyond 64 MiB for one user (pipe(7)) gives new ones two pages.
var pipes = make(chan pipe, 32)

func getPipe() (pipe, error) {
	select {
	case p := <-pipes:
		return p, nil
	default:
	}
	var fds [2]int
	if err := unix.Pipe2(fds[:], unix.O_CLOEXEC|unix.O_NONBLOCK); err != nil {
		return pipe{}, os.NewSyscallError("pipe2", err)
	}
	p := pipe{fds[0], fds[1]}
	if _, err := unix.FcntlInt(uintptr(p.r), unix.F_SETPIPE_SZ, spliceMost); err != nil {
		// One of the ordinary size does too, but not one of two pages.
		if _, err := unix.FcntlInt(uintptr(p.r), unix.F_SETPIPE_SZ, spliceLeast); err != nil {
			p.close()
			return pipe{}, os.NewSyscallError("fcntl F_SETPIPE_SZ", err)
		}
	}
	return p, nil
}

func (p pipe) put() {
	select {
	case pipes <- p:
	default:
		p.close()
	}
}

func (p pipe) close() {
	_ = unix.Close(p.r)
	_ = unix.Close(p.w)
}
