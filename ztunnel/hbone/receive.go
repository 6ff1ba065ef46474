// SPDX-License-Identifier: Apache-2.0

package hbone

import (
	"errors"
	"io"
	"sync"
	"sync/atomic"
	"syscall"
)

// receiver is the receiving side of a stream: a queue between the connection's reader and whoever takes the bytes,
// or, under WriteTo, a socket that the reader writes to itself as long as that needs no waiting.
type receiver struct {
	mu       sync.Mutex
	wake     sync.Cond
	window   window
	queue    queue
	ended    bool  // END_STREAM arrived
	err      error // ends reading once the queue is empty
	sink     syscall.RawConn
	sinkErr  error
	sunk     int64          // bytes the reader wrote to sink
	received *atomic.Uint64 // what WriteTo and the reader count in for it, nil for nothing
	draining bool           // WriteTo itself writes
	dest     deadliner
	write    sinkWrite
}

// arrive checks a DATA frame of n bytes against the stream's state and window.
func (s *Stream) arrive(h frameHeader) error {
	in := &s.in
	in.mu.Lock()
	defer in.mu.Unlock()
	switch {
	case in.ended:
		return &StreamError{s.id, CodeStreamClosed, "DATA behind the end"}
	case s.conn.client && !s.answered.Load():
		return &StreamError{s.id, CodeProtocol, "DATA before an answer"}
	case !in.window.receive(h.length):
		return &StreamError{s.id, CodeFlowControl, "DATA beyond the stream's window"}
	}
	return nil
}

// arriveEnd takes END_STREAM.
func (s *Stream) arriveEnd() {
	c := s.conn
	s.in.mu.Lock()
	s.in.ended = true
	s.in.wake.Broadcast()
	s.in.mu.Unlock()
	c.mu.Lock()
	s.peerEnd = true
	ended := c.closeIfEnded(s)
	c.mu.Unlock()
	if ended {
		c.ended()
	}
}

func (s *Stream) remoteEnded() bool {
	s.in.mu.Lock()
	defer s.in.mu.Unlock()
	return s.in.ended
}

// deliver takes payload from the connection's reader; it never waits. The pieces are the reader's again afterwards.
func (s *Stream) deliver(pieces [][]byte) {
	in := &s.in
	in.mu.Lock()
	if in.err != nil || in.sinkErr != nil {
		in.mu.Unlock()
		return
	}
	written := 0
	if in.sink != nil && !in.draining && in.queue.size == 0 {
		written, in.sinkErr = in.write.now(in.sink, pieces)
		in.sunk += int64(written)
		in.count(written)
	}
	credit := in.credit(written, s)
	over := false
	if in.sinkErr == nil {
		over = !in.queue.put(pieces, written, s.conn.config.Budget)
	}
	if in.queue.size > 0 || in.sinkErr != nil {
		in.wake.Broadcast()
	}
	in.mu.Unlock()
	s.sendCredit(credit)
	if over {
		s.conn.reset(s, &ResetError{Code: CodeEnhanceYourCalm, Local: true, Cause: "memory for slow readers is used up"})
	}
}

// count tells of n bytes that reached WriteTo's writer.
func (in *receiver) count(n int) {
	if in.received != nil {
		in.received.Add(uint64(n))
	}
}

// credit counts n delivered bytes and returns what WINDOW_UPDATE is due; mu is held.
func (in *receiver) credit(n int, s *Stream) uint32 {
	if n == 0 {
		return 0
	}
	credit := in.window.consume(n, maxStreamWindow, s.conn.roundTrip())
	if in.ended || in.err != nil {
		return 0
	}
	return credit
}

// sendCredit leaves a WINDOW_UPDATE pending.
func (s *Stream) sendCredit(n uint32) {
	if n == 0 {
		return
	}
	c := s.conn
	c.mu.Lock()
	if !s.closed && c.err == nil {
		*c.pend() = appendUint32Frame(*c.pend(), frameWindowUpdate, s.id, n)
	}
	c.mu.Unlock()
}

// skip counts padding as delivered.
func (s *Stream) skip(n int) {
	s.in.mu.Lock()
	credit := s.in.credit(n, s)
	s.in.mu.Unlock()
	s.sendCredit(credit)
}

// unsent is how much the peer may still send.
func (in *receiver) unsent() int64 {
	in.mu.Lock()
	defer in.mu.Unlock()
	return max(in.window.avail, 0)
}

// abort ends reading with err, unless END_STREAM came: then what is queued may still be read. A reset drops the
// queue; with all even an ended one.
func (in *receiver) abort(err error, all bool) {
	var reset *ResetError
	in.mu.Lock()
	if !in.ended || all {
		if in.err == nil {
			in.err = err
		}
		if errors.As(err, &reset) {
			in.queue.drop()
		}
	}
	var dest deadliner
	if in.err != nil && in.draining {
		dest = in.dest
	}
	in.wake.Broadcast()
	in.mu.Unlock()
	if dest != nil {
		_ = dest.SetWriteDeadline(longAgo)
	}
}

// awaitTaken waits until nothing that arrived is left to take, or nobody will take it.
func (in *receiver) awaitTaken() {
	in.mu.Lock()
	defer in.mu.Unlock()
	for (in.queue.size > 0 || in.draining) && in.err == nil && in.sinkErr == nil {
		in.wake.Wait()
	}
}

// taken tells awaitTaken; mu is held.
func (in *receiver) taken() {
	if in.ended {
		in.wake.Broadcast()
	}
}

// end is why reading is over; mu is held, the queue is empty.
func (in *receiver) end() error {
	switch {
	case in.err != nil:
		return in.err
	case in.ended:
		return io.EOF
	}
	return nil
}
