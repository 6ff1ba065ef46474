// SPDX-License-Identifier: Apache-2.0

package hbone

import (
	"io"
	"os"
	"syscall"

	"github.com/warren-mesh/warren/ztunnel/record"
)

// ReadFrom sends what r yields until its io.EOF, which gives a nil error and leaves the stream open: CloseWrite
// ends it. If r is a socket (it has SyscallConn and deadlines) bytes are read past r's own Read straight into the
// slots they are sealed in, and waiting for r holds no buffer. When the stream ends meanwhile, r's read deadline
// is set to the past to interrupt the wait, and the stream's error returned. Call it, not io.Copy, which would
// ask r's WriteTo first.
func (s *Stream) ReadFrom(r io.Reader) (int64, error) {
	s.writeMu.Lock()
	defer s.writeMu.Unlock()
	if err := s.attach(asDeadliner(r)); err != nil {
		return 0, err
	}
	var total int64
	var err error
	if raw := descriptor(r); raw != nil {
		total, err = s.pump(raw)
	} else {
		total, err = s.copyFrom(r)
	}
	if cause := s.detach(); cause != nil && err != nil {
		err = cause // the deadline was our way to interrupt
	}
	if s.broken = err != nil; s.broken {
		s.letRead()
	}
	return total, err
}

func (s *Stream) attach(source deadliner) error {
	s.conn.mu.Lock()
	defer s.conn.mu.Unlock()
	if err := s.writable(); err != nil && !s.enough {
		return err
	}
	s.source = source
	return nil
}

// letRead waits, when the server had enough, until what it said before is taken: who is told of the error may reset
// the stream, and that must not cost the answer.
func (s *Stream) letRead() {
	s.conn.mu.Lock()
	enough := s.enough
	s.conn.mu.Unlock()
	if enough {
		s.in.awaitTaken()
	}
}

func (s *Stream) detach() error {
	s.conn.mu.Lock()
	defer s.conn.mu.Unlock()
	s.source = nil
	return s.writeErr
}

// copyFrom is ReadFrom for readers without a descriptor.
func (s *Stream) copyFrom(r io.Reader) (int64, error) {
	slots := record.GetSlots(1)
	defer slots.Put()
	total := int64(0)
	for {
		n, err := r.Read(slots.Payload(0))
		if n > 0 {
			total += s.took(n)
			if werr := s.sendRead(slots, n); werr != nil {
				return total, werr
			}
		}
		if err == io.EOF {
			return total, nil
		}
		if err != nil {
			return total, err
		}
	}
}

// took counts n bytes that ReadFrom read; writeMu is held.
func (s *Stream) took(n int) int64 {
	if s.sent != nil {
		s.sent.Add(uint64(n))
	}
	return int64(n)
}

// sendRead sends n bytes that were read into a slot before there was window for them.
func (s *Stream) sendRead(slots *record.Slots, n int) error {
	p := slots.Payload(0)[:n]
	if n > smallFrame {
		if k, err := s.reserveWait(n); err != nil {
			return err
		} else if k == n {
			return s.sendSlots(slots, n)
		} else {
			s.refund(k)
		}
	}
	for len(p) > 0 {
		n, err := s.send(p)
		if err != nil {
			return err
		}
		p = p[n:]
	}
	return nil
}

// pump is the state of one ReadFrom over a descriptor.
type pump struct {
	stream *Stream
	slots  *record.Slots
	want   int // slots to read into: 1, or all after a full read
	n      int
	errno  syscall.Errno
	shut   bool // no window, or the stream has ended
	spare  bool // the server had enough: what is read has no window and goes nowhere
	read   vector
}

// pump moves bytes from a socket into the tunnel.
func (s *Stream) pump(raw syscall.RawConn) (int64, error) {
	p := &pump{stream: s, want: 1}
	step := p.step
	total := int64(0)
	for {
		if err := raw.Read(step); err != nil {
			return total, err
		}
		switch {
		case p.shut:
			if err := s.awaitWindow(); err != nil {
				return total, err
			}
		case p.errno != 0:
			return total, os.NewSyscallError("read", p.errno)
		case p.n == 0:
			return total, nil
		case p.spare:
			p.slots.Put()
			return total, s.failure()
		default:
			total += s.took(p.n)
			if err := p.send(); err != nil {
				return total, err
			}
		}
	}
}

// awaitWindow waits until a byte can be sent, or the server had enough.
func (s *Stream) awaitWindow() error {
	s.conn.mu.Lock()
	defer s.conn.mu.Unlock()
	_, err := s.await(1)
	if s.enough {
		return nil
	}
	return err
}

// failure is why the stream takes no more bytes.
func (s *Stream) failure() error {
	s.conn.mu.Lock()
	defer s.conn.mu.Unlock()
	return s.writable()
}

// step reads once without waiting; false has the netpoller wait for bytes. Window is taken before the read, so
// what is read can be sent at once, and nothing is read that can't.
func (p *pump) step(fd uintptr) bool {
	s := p.stream
	c := s.conn
	c.mu.Lock()
	most := s.open(p.want * record.MaxPayload)
	p.spare = s.enough
	p.shut = !p.spare && (most <= 0 || s.writable() != nil)
	switch {
	case p.spare: // a byte would be one too many, but there may be none
		most = 1
	case !p.shut:
		s.take(most)
	}
	c.mu.Unlock()
	if p.shut {
		return true
	}
	p.slots = record.GetSlots(slotsFor(most))
	p.n, p.errno = p.read.into(fd, p.slots, most)
	if p.n < most && !p.spare {
		s.refund(most - max(p.n, 0))
	}
	if p.n > 0 {
		return true
	}
	p.slots.Put()
	p.slots = nil
	return p.errno != syscall.EAGAIN
}

// send sends what step read, and chooses how much to read next.
func (p *pump) send() error {
	slots, n := p.slots, p.n
	p.slots = nil
	defer slots.Put()
	switch {
	case n == p.want*record.MaxPayload:
		p.want = record.MaxSlots
	case n < record.MaxPayload:
		p.want = 1
	}
	if n <= smallFrame {
		return p.stream.sendTaken(slots.Payload(0)[:n])
	}
	return p.stream.sendSlots(slots, n)
}

// sendTaken is sendSmall for bytes whose window is taken.
func (s *Stream) sendTaken(p []byte) error {
	c := s.conn
	c.mu.Lock()
	if err := s.writable(); err != nil {
		s.take(-len(p)) // the connection's window is everybody's
		c.wakeWriters()
		c.mu.Unlock()
		return err
	}
	b := c.pend()
	*b = appendFrame(*b, frameData, 0, s.id, p)
	crowded := len(*b) > pendingFull
	c.mu.Unlock()
	if crowded {
		c.flushWait()
	} else {
		c.flush()
	}
	return nil
}
