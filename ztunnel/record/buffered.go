// SPDX-License-Identifier: Apache-2.0

package record

import (
	"encoding/binary"
	"io"
	"net"
	"os"
	"sync"
	"syscall"
	"time"
)

// readSize is how much ciphertext one read of the socket may bring, in bytes: seven full records and a rest.
const readSize = 128 << 10

var readPool = sync.Pool{New: func() any { b := make([]byte, readSize); return &b }}

// maxIdleOut is the largest outgoing buffer a connection keeps between writes.
const maxIdleOut = 4 << 10

// socket lies between crypto/tls and the TCP connection. It reads the socket in large pieces, so that several
// records are at hand at once, and after the handshake it gathers written records for one write of the socket.
type socket struct {
	net.Conn
	raw syscall.RawConn // nil if the connection below has no descriptor

	// Of the reader.
	buf  *[]byte // pooled; nil while nothing is buffered
	r, w int
	rest int // bytes crypto/tls has yet to take of the current record
	fill func(fd uintptr) bool
	n    int
	err  error

	// Of the writer and, for alerts and key updates, of the reader.
	mu      sync.Mutex
	gather  bool
	out     []byte
	writing bool // somebody will flush
	written chan struct{}
	failed  error // the first failed write; nothing may follow it

	// Of whoever flushes.
	unsent []byte
	drain  func(fd uintptr) bool
	errno  syscall.Errno
}

// Buffered wraps the TCP connection that tls.Client or tls.Server is about to use. OverTLS works without it, but
// only with it does one system call serve several records, and only with it does an idle connection hold no
// read buffer and a reader never wait for a write.
func Buffered(c net.Conn) net.Conn {
	s := &socket{Conn: c}
	if sc, ok := c.(syscall.Conn); ok {
		if raw, err := sc.SyscallConn(); err == nil {
			s.raw = raw
		}
	}
	s.fill, s.drain = s.fillRaw, s.drainRaw
	return s
}

// Read serves crypto/tls from the buffer, never beyond the end of a record: what crypto/tls read ahead would be
// out of sight of fullRecord.
func (s *socket) Read(p []byte) (int, error) {
	for s.w-s.r < HeaderSize && s.rest == 0 || s.r == s.w {
		if err := s.more(); err != nil {
			return 0, err
		}
	}
	if s.rest == 0 {
		s.rest = s.recordSize()
	}
	n := copy(p[:min(len(p), s.rest)], (*s.buf)[s.r:s.w])
	s.r += n
	s.rest -= n
	s.release()
	return n, nil
}

// release gives an empty buffer back.
func (s *socket) release() {
	if s.r == s.w && s.buf != nil {
		readPool.Put(s.buf)
		s.buf, s.r, s.w = nil, 0, 0
	}
}

// more waits for bytes from the socket. Where the socket has a descriptor it waits without a buffer.
func (s *socket) more() error {
	if s.buf != nil && s.r > 0 {
		s.w = copy(*s.buf, (*s.buf)[s.r:s.w])
		s.r = 0
	}
	s.n, s.err = 0, nil
	if s.raw != nil {
		if err := s.raw.Read(s.fill); err != nil {
			return err
		}
	} else {
		s.take()
		s.n, s.err = s.Conn.Read((*s.buf)[s.w:])
	}
	if s.n > 0 {
		s.w += s.n
		return nil
	}
	s.release()
	return s.err
}

func (s *socket) take() {
	if s.buf == nil {
		s.buf = readPool.Get().(*[]byte)
	}
}

func (s *socket) fillRaw(fd uintptr) bool {
	s.take()
	n, err := readNow(fd, (*s.buf)[s.w:])
	switch {
	case err == syscall.EAGAIN:
		s.release()
		return false
	case err != 0:
		s.err = os.NewSyscallError("read", err)
	case n == 0:
		s.err = io.EOF
	}
	s.n = n
	return true
}

// fullRecord tells whether a whole record is buffered, so that crypto/tls needs no socket to read it.
func (s *socket) fullRecord() bool {
	have := s.w - s.r
	return have >= HeaderSize && have >= s.recordSize()
}

// recordSize is the size of the record whose header stands first in the buffer, header included.
func (s *socket) recordSize() int {
	return HeaderSize + int(binary.BigEndian.Uint16((*s.buf)[s.r+3:]))
}

// awaitRecord waits until a whole record is buffered.
func (s *socket) awaitRecord() error {
	for !s.fullRecord() {
		if s.w-s.r == readSize {
			return nil // more than a record can be: crypto/tls refuses it
		}
		if err := s.more(); err == io.EOF {
			return io.ErrUnexpectedEOF
		} else if err != nil {
			return err
		}
	}
	return nil
}

// Write takes records from crypto/tls. After the handshake they are gathered; whoever finds nobody else about
// to flush sees to it, without waiting, for this may be the reader answering a key update.
func (s *socket) Write(p []byte) (int, error) {
	s.mu.Lock()
	if !s.gather {
		s.mu.Unlock()
		return s.Conn.Write(p)
	}
	if s.failed != nil {
		defer s.mu.Unlock()
		return 0, s.failed
	}
	s.out = append(s.out, p...)
	if !s.writing {
		s.writing = true
		go s.flush()
	}
	s.mu.Unlock()
	return len(p), nil
}

// begin makes the caller the one who flushes.
func (s *socket) begin() {
	s.mu.Lock()
	for s.writing {
		if s.written == nil {
			s.written = make(chan struct{})
		}
		done := s.written
		s.mu.Unlock()
		<-done
		s.mu.Lock()
	}
	s.writing = true
	s.mu.Unlock()
}

// tryBegin is begin without waiting.
func (s *socket) tryBegin() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.writing {
		return false
	}
	s.writing = true
	return true
}

// flush writes what was gathered, and what is gathered meanwhile; begin came before.
func (s *socket) flush() error {
	s.mu.Lock()
	for len(s.out) > 0 && s.failed == nil {
		p := s.out
		s.out = nil
		s.mu.Unlock()
		err := s.send(p)
		s.mu.Lock()
		s.failed = err
		if s.out == nil && (cap(p) <= maxIdleOut || cap(p) >= outSize) {
			s.out = p[:0]
		}
	}
	if s.failed != nil {
		s.out = s.out[:0]
	}
	if len(s.out) == 0 && cap(s.out) >= outSize {
		b := s.out[:0]
		s.out = nil
		outPool.Put(&b)
	}
	s.writing = false
	if s.written != nil {
		close(s.written)
		s.written = nil
	}
	failed := s.failed
	s.mu.Unlock()
	return failed
}

// send writes all of p to the socket, waiting for room.
func (s *socket) send(p []byte) error {
	if s.raw == nil {
		_, err := s.Conn.Write(p)
		return err
	}
	s.unsent, s.errno = p, 0
	err := s.raw.Write(s.drain)
	s.unsent = nil
	if s.errno != 0 {
		return os.NewSyscallError("write", s.errno)
	}
	return err
}

// drainRaw writes until the socket is full; false has the netpoller wait for room.
func (s *socket) drainRaw(fd uintptr) bool {
	for len(s.unsent) > 0 {
		n, errno := writeNow(fd, s.unsent)
		if errno == syscall.EAGAIN {
			return false
		}
		if s.errno = errno; errno != 0 {
			return true
		}
		s.unsent = s.unsent[n:]
	}
	return true
}

// outSize holds the records of a whole batch of slots.
const outSize = MaxSlots * (SlotSize + HeaderSize)

var outPool = sync.Pool{New: func() any { b := make([]byte, 0, outSize); return &b }}

// reserve makes room for a batch of n slots.
func (s *socket) reserve(n int) {
	if n <= 1 {
		return
	}
	s.mu.Lock()
	if cap(s.out)-len(s.out) < n*SlotSize {
		b := *outPool.Get().(*[]byte)
		s.out = append(b[:0], s.out...)
	}
	s.mu.Unlock()
}

func (s *socket) startGathering() {
	s.mu.Lock()
	s.gather = true
	s.mu.Unlock()
}

// farewell bounds how long a closing connection waits for room for its close_notify.
const farewell = 250 * time.Millisecond

// Underlying is the connection that Buffered wrapped, or else the one c itself runs on.
func Underlying(c interface{ NetConn() net.Conn }) net.Conn {
	if s, ok := c.NetConn().(*socket); ok {
		return s.Conn
	}
	return c.NetConn()
}
