// SPDX-License-Identifier: Apache-2.0

package hbone

import (
	"io"

	"github.com/warren-mesh/warren/ztunnel/record"
)

// smallFrame is the largest payload that is appended to the pending buffer rather than sealed where it lies.
const smallFrame = 4 << 10

// Write sends p. It waits for the peer's window and for the socket.
func (s *Stream) Write(p []byte) (int, error) {
	s.writeMu.Lock()
	defer s.writeMu.Unlock()
	total := 0
	for total < len(p) {
		n, err := s.send(p[total:])
		total += n
		if err != nil {
			return total, err
		}
	}
	return total, nil
}

// send sends a first part of p.
func (s *Stream) send(p []byte) (int, error) {
	if len(p) <= smallFrame {
		return s.sendSmall(p)
	}
	n, err := s.reserveWait(min(len(p), record.MaxSlots*record.MaxPayload))
	if err != nil {
		return 0, err
	}
	slots := record.GetSlots(slotsFor(n))
	defer slots.Put()
	for i, rest := 0, p[:n]; len(rest) > 0; i++ {
		rest = rest[copy(slots.Payload(i), rest):]
	}
	return n, s.sendSlots(slots, n)
}

func slotsFor(n int) int { return (n + record.MaxPayload - 1) / record.MaxPayload }

// sendSmall appends a frame to the pending buffer and sees that it leaves.
func (s *Stream) sendSmall(p []byte) (int, error) {
	c := s.conn
	c.mu.Lock()
	n, err := s.await(len(p))
	if err != nil {
		c.mu.Unlock()
		return 0, err
	}
	s.take(n)
	b := c.pend()
	*b = appendFrame(*b, frameData, 0, s.id, p[:n])
	crowded := len(*b) > pendingFull
	c.mu.Unlock()
	if crowded {
		c.flushWait()
	} else {
		c.flush()
	}
	return n, nil
}

// reserveWait waits for window and takes up to most bytes of it.
func (s *Stream) reserveWait(most int) (int, error) {
	s.conn.mu.Lock()
	defer s.conn.mu.Unlock()
	n, err := s.await(most)
	if err == nil {
		s.take(n)
	}
	return n, err
}

// await waits until some window is open and returns how much of it, at most most; mu is held.
func (s *Stream) await(most int) (int, error) {
	c := s.conn
	for {
		if err := s.writable(); err != nil {
			return 0, err
		}
		if n := s.open(most); n > 0 {
			return n, nil
		}
		c.waiters.add(s)
		s.wake.Wait()
	}
}

// writable tells why the stream takes no bytes; mu is held.
func (s *Stream) writable() error {
	switch {
	case s.writeErr != nil:
		return s.writeErr
	case s.localEnd:
		return io.ErrClosedPipe
	}
	return nil
}

func (s *Stream) open(most int) int { return int(min(s.sendWindow, s.conn.sendWindow, int64(most))) }

func (s *Stream) take(n int) {
	s.sendWindow -= int64(n)
	s.conn.sendWindow -= int64(n)
}

// refund returns window that was taken and not used.
func (s *Stream) refund(n int) {
	if n == 0 {
		return
	}
	c := s.conn
	c.mu.Lock()
	s.take(-n)
	c.wakeWriters()
	c.mu.Unlock()
}

// sendSlots sends n bytes of payload that lie in slots; window for them is taken.
func (s *Stream) sendSlots(slots *record.Slots, n int) error {
	c := s.conn
	c.writing.Lock()
	c.mu.Lock()
	// What is pending came earlier. If a reset is among it, no DATA may follow.
	before := c.takePending()
	err := s.writable()
	c.mu.Unlock()
	c.write(before)
	if err == nil {
		count := slotsFor(n)
		for i := range count {
			k := min(n, record.MaxPayload)
			frameHeader{length: k, typ: frameData, stream: s.id}.put(slots.Frame(i, k))
			n -= k
		}
		if werr := c.records.WriteSlots(slots, count); werr != nil {
			c.failWriting(werr)
			err = c.ending()
		}
	} else {
		c.mu.Lock()
		s.take(-n)
		c.wakeWriters()
		c.mu.Unlock()
	}
	c.writing.Unlock()
	c.flush()
	return err
}

// ending is why the connection ended.
func (c *conn) ending() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.err
}
