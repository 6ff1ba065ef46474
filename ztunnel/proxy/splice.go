// SPDX-License-Identifier: Apache-2.0

package proxy

import (
	"os"
	"sync"
	"sync/atomic"
	"syscall"
	"unsafe"

	"golang.org/x/sys/unix"
)

const (
	// spliceMost is how many bytes one splice may move, and the pipe should hold.
	spliceMost = 1 << 20
	// spliceLeast is how many the pipe must hold: what pipes have that nobody asked for more, or for too many.
	spliceLeast = 64 << 10
	// copyMost is how many bytes are copied at once: what fits costs two calls that way, four by a pipe.
	copyMost = 16 << 10
)

// pieces are the buffers of copies, of copyMost bytes. A direction has one from a read to the end of the write, no more.
var pieces = sync.Pool{New: func() any { return new([copyMost]byte) }}

// splice copies to src's end of file: little pieces through a buffer, large ones inside the kernel. Each counts when it
// has gone. While src is silent it holds neither buffer nor pipe.
func splice(dst, src tcpSide, n *atomic.Uint64) error {
	from, err := src.SyscallConn()
	if err != nil {
		return err
	}
	to, err := dst.SyscallConn()
	if err != nil {
		return err
	}
	s := splicer{counter: n, account: dst.account}
	err = s.copy(to, from)
	s.drop()
	return err
}

// splicer is the state of one direction. Its calls can't block, so they go past Go's scheduler (RawSyscall): telling it
// wakes the watchdog thread of a process that was idle, and takes longer than a small piece itself.
type splicer struct {
	large   bool // the last piece was: the next goes by a pipe
	pipe    pipe
	piped   bool            // pipe is set, and counted
	piece   *[copyMost]byte // else, while it holds something
	held    int             // bytes in one of them
	gone    int             // bytes of piece that have been written
	counter *atomic.Uint64
	account *account
	owed    int // bytes counted there
	errno   syscall.Errno
	call    string // that errno is of
	ended   bool
	full    bool // the account is: the next piece waits in its socket until the reader takes something
	takes   bool // the reader, as it was just seen
}

func (s *splicer) copy(to, from syscall.RawConn) error {
	fill, empty := s.fill, s.empty // one allocation each
	for {
		if err := from.Read(fill); err != nil {
			return err
		}
		if s.full {
			if err := to.Write(writable); err != nil {
				return err
			}
			s.takes = true
			continue
		}
		for s.held > 0 && s.errno == 0 {
			if err := to.Write(empty); err != nil {
				return err
			}
		}
		if s.errno != 0 {
			return os.NewSyscallError(s.call, s.errno)
		}
		if s.ended {
			return nil
		}
	}
}

// fill takes what the socket has; false has the netpoller wait, and nothing is held meanwhile. Of a full account it only
// looks: the account may have become so since it began to wait, and all that wait would hold a piece at once.
func (s *splicer) fill(fd uintptr) bool {
	if s.full = !s.takes && s.account.full(); s.full {
		return s.look(fd)
	}
	s.takes = false
	n, errno := 0, syscall.Errno(0)
	if s.large = s.large && s.openPipe(); s.large {
		s.call = "splice"
		n, errno = spliceOnce(fd, uintptr(s.pipe.w), spliceMost)
		s.large = n >= copyMost || errno == syscall.EAGAIN
	} else {
		if s.piece == nil {
			s.piece, s.gone = pieces.Get().(*[copyMost]byte), 0
		}
		s.call = "recvfrom"
		n, errno = transfer(syscall.SYS_RECVFROM, fd, s.piece[:], 0)
		s.large = n == copyMost
	}
	if errno == syscall.EAGAIN {
		s.drop()
		return false
	}
	s.held, s.ended, s.errno = n, n == 0 && errno == 0, errno
	return true
}

// look is fill that leaves in the socket what it has. The sender's end is noticed all the same.
func (s *splicer) look(fd uintptr) bool {
	s.drop()
	var first [1]byte
	s.call = "recvfrom"
	n, errno := transfer(syscall.SYS_RECVFROM, fd, first[:], syscall.MSG_PEEK)
	if errno == syscall.EAGAIN {
		return false
	}
	s.full, s.ended, s.errno = n > 0, n == 0 && errno == 0, errno
	return true
}

// empty gives what is held to the socket.
func (s *splicer) empty(fd uintptr) bool {
	n, errno := 0, syscall.Errno(0)
	if s.piped {
		s.call = "splice"
		n, errno = spliceOnce(uintptr(s.pipe.r), fd, s.held)
	} else {
		s.call = "sendto"
		n, errno = transfer(syscall.SYS_SENDTO, fd, s.piece[s.gone:s.gone+s.held], syscall.MSG_NOSIGNAL)
		s.gone += n
	}
	if errno == syscall.EAGAIN {
		s.owe(s.held)
		return false
	}
	s.held -= n
	s.counter.Add(uint64(n))
	if s.owed > 0 {
		s.owe(s.held)
	}
	s.errno = errno
	if s.held == 0 && !(s.piped && s.large) {
		s.drop()
	}
	return true
}

// owe has n bytes counted as waiting for a slow reader.
func (s *splicer) owe(n int) {
	s.account.budget.Count(n - s.owed)
	s.owed = n
}

// openPipe has the next pieces go by a pipe. Without room or descriptors for one they are copied.
func (s *splicer) openPipe() bool {
	if s.piped {
		return true
	}
	if !s.account.takePipe() {
		return false
	}
	p, err := getPipe()
	if err != nil {
		s.account.givePipe()
		return false
	}
	s.pipe, s.piped = p, true
	return true
}

// drop lets go of buffer and pipe.
func (s *splicer) drop() {
	if s.owed > 0 {
		s.owe(0)
	}
	if s.piped {
		s.account.givePipe()
	}
	switch {
	case s.piped && s.held > 0:
		s.pipe.close()
	case s.piped:
		s.pipe.put()
	case s.piece != nil:
		pieces.Put(s.piece)
	}
	s.piped, s.piece = false, nil
}

// writable reports whether the socket takes a piece, at least in part. It looks by ppoll, which the seal allows.
func writable(fd uintptr) bool {
	p := unix.PollFd{Fd: int32(fd), Events: unix.POLLOUT}
	var now unix.Timespec
	n, _, errno := syscall.RawSyscall6(syscall.SYS_PPOLL, uintptr(unsafe.Pointer(&p)), 1, uintptr(unsafe.Pointer(&now)), 0, 0, 0)
	return n != 0 || errno != 0
}

func spliceOnce(from, to uintptr, most int) (int, syscall.Errno) {
	for {
		n, _, errno := syscall.RawSyscall6(syscall.SYS_SPLICE, from, 0, to, 0, uintptr(most), unix.SPLICE_F_NONBLOCK)
		if errno == 0 {
			return int(n), 0
		}
		if errno != syscall.EINTR {
			return 0, errno
		}
	}
}

// transfer is recvfrom or sendto.
func transfer(trap, fd uintptr, p []byte, flags uintptr) (int, syscall.Errno) {
	for {
		n, _, errno := syscall.RawSyscall6(trap, fd, uintptr(unsafe.Pointer(&p[0])), uintptr(len(p)), flags|syscall.MSG_DONTWAIT, 0, 0)
		if errno == 0 {
			return int(n), 0
		}
		if errno != syscall.EINTR {
			return 0, errno
		}
	}
}
