// SPDX-License-Identifier: Apache-2.0

package hbone

import (
	"os"
	"sync"
	"syscall"
	"unsafe"

	"github.com/warren-mesh/warren/ztunnel/record"
)

// Reads and writes here never wait (MSG_DONTWAIT), so they go past the scheduler by RawSyscall; recvmsg and
// sendmsg, not readv and writev, for the flag and because a sandboxed process has them anyway.

// vector is a reusable message header with its pieces.
type vector struct {
	header syscall.Msghdr
	pieces []syscall.Iovec
}

func (v *vector) call(trap uintptr, fd uintptr, flags uintptr) (int, syscall.Errno) {
	v.header = syscall.Msghdr{Iov: &v.pieces[0]}
	v.header.Iovlen = uint64(len(v.pieces))
	for {
		n, _, errno := syscall.RawSyscall(trap, fd, uintptr(unsafe.Pointer(&v.header)), flags|syscall.MSG_DONTWAIT)
		if errno == syscall.EINTR {
			continue
		}
		if errno != 0 {
			return 0, errno
		}
		return int(n), 0
	}
}

func (v *vector) add(p []byte) {
	v.pieces = append(v.pieces, syscall.Iovec{Base: &p[0], Len: uint64(len(p))})
}

func (v *vector) clear() {
	clear(v.pieces)
	v.pieces = v.pieces[:0]
	v.header = syscall.Msghdr{}
}

// into reads up to most bytes from a socket into the payloads of slots.
func (v *vector) into(fd uintptr, slots *record.Slots, most int) (int, syscall.Errno) {
	for i := 0; most > 0; i++ {
		p := slots.Payload(i)
		p = p[:min(len(p), most)]
		v.add(p)
		most -= len(p)
	}
	defer v.clear()
	return v.call(syscall.SYS_RECVMSG, fd, 0)
}

// vectors are shared by all connections: a stream needs one only while it writes.
var vectors = sync.Pool{New: func() any { return new(vector) }}

// sinkWrite writes pieces to a socket as far as that needs no waiting. Its memory lives only for the call.
type sinkWrite struct {
	step   func(fd uintptr) bool
	vector *vector
	n      int
	errno  syscall.Errno
}

// now returns how many bytes the socket took; a full socket is no error.
func (w *sinkWrite) now(raw syscall.RawConn, pieces [][]byte) (int, error) {
	if w.step == nil {
		w.step = w.try
	}
	w.vector = vectors.Get().(*vector)
	for _, p := range pieces {
		w.vector.add(p)
	}
	w.n, w.errno = 0, 0
	err := raw.Write(w.step)
	w.vector.clear()
	vectors.Put(w.vector)
	w.vector = nil
	if err != nil {
		return w.n, err
	}
	if w.errno != 0 && w.errno != syscall.EAGAIN {
		return w.n, os.NewSyscallError("write", w.errno)
	}
	return w.n, nil
}

func (w *sinkWrite) try(fd uintptr) bool {
	w.n, w.errno = w.vector.call(syscall.SYS_SENDMSG, fd, syscall.MSG_NOSIGNAL)
	return true // never has the netpoller wait
}
