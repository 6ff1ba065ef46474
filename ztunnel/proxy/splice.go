// SPDX-License-Identifier: Apache-2.0

package proxy

import (
	"os"
	"sync/atomic"
	"syscall"

	"golang.org/x/sys/unix"
)

// spliceMost is how many bytes one splice may move, and the pipe should hold.
const spliceMost = 1 << 20

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
	_, _ = unix.FcntlInt(uintptr(fds[0]), unix.F_SETPIPE_SZ, spliceMost) // a smaller one does too
	return pipe{fds[0], fds[1]}, nil
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

// splice copies to src's end of file inside the kernel, as the standard library does, but counts each piece when it
// has gone: the library tells at the end only, which may be days away.
func splice(dst, src tcpSide, n *atomic.Uint64) error {
	from, err := src.SyscallConn()
	if err != nil {
		return err
	}
	to, err := dst.SyscallConn()
	if err != nil {
		return err
	}
	p, err := getPipe()
	if err != nil { // out of descriptors: slower, and counted late
		moved, err := dst.TCPConn.ReadFrom(src.TCPConn)
		n.Add(uint64(moved))
		return err
	}
	s := splicer{pipe: p, counter: n}
	if err = s.copy(to, from); s.held > 0 {
		p.close()
	} else {
		p.put()
	}
	return err
}

// splicer is the state of one direction.
type splicer struct {
	pipe    pipe
	held    int // bytes in the pipe
	counter *atomic.Uint64
	err     error
	ended   bool
}

func (s *splicer) copy(to, from syscall.RawConn) error {
	fill, empty := s.fill, s.empty // one allocation each
	for {
		if err := from.Read(fill); err != nil {
			return err
		}
		if s.err != nil || s.ended {
			return s.err
		}
		for s.held > 0 {
			if err := to.Write(empty); err != nil {
				return err
			}
			if s.err != nil {
				return s.err
			}
		}
	}
}

// fill takes what the socket has into the pipe, which is empty; false has the netpoller wait.
func (s *splicer) fill(fd uintptr) bool {
	n, err := spliceOnce(int(fd), s.pipe.w, spliceMost)
	if err == unix.EAGAIN {
		return false
	}
	s.held, s.ended, s.err = n, n == 0, os.NewSyscallError("splice", err)
	return true
}

// empty gives what the pipe has to the socket.
func (s *splicer) empty(fd uintptr) bool {
	n, err := spliceOnce(s.pipe.r, int(fd), s.held)
	if err == unix.EAGAIN {
		return false
	}
	s.held -= n
	s.counter.Add(uint64(n))
	s.err = os.NewSyscallError("splice", err)
	return true
}

func spliceOnce(from, to, most int) (int, error) {
	for {
		n, err := unix.Splice(from, nil, to, nil, most, unix.SPLICE_F_NONBLOCK)
		if err != unix.EINTR {
			return int(max(n, 0)), err
		}
	}
}
