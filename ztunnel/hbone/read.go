// SPDX-License-Identifier: Apache-2.0

package hbone

import "io"

// Read waits for bytes. io.EOF comes only after the peer's END_STREAM; *ResetError and ErrConnectionLost tell the
// other ends apart.
func (s *Stream) Read(p []byte) (int, error) {
	if len(p) == 0 {
		return 0, nil
	}
	in := &s.in
	in.mu.Lock()
	for in.queue.size == 0 && in.end() == nil {
		in.wake.Wait()
	}
	if in.queue.size == 0 {
		defer in.mu.Unlock()
		return 0, in.end()
	}
	n := in.queue.take(p)
	in.taken()
	credit := in.credit(n, s)
	in.mu.Unlock()
	if credit > 0 {
		s.sendCredit(credit)
		s.conn.flush()
	}
	return n, nil
}

// WriteTo writes what the peer sends to w until its END_STREAM, which gives a nil error. If w is a socket (it has
// SyscallConn and deadlines) the connection's reader writes to it directly, past w's own Write; this goroutine
// wakes only when the socket is full. After a reset w's write deadline has passed.
func (s *Stream) WriteTo(w io.Writer) (int64, error) {
	in := &s.in
	in.mu.Lock()
	defer in.mu.Unlock()
	in.sink, in.dest, in.sunk = descriptor(w), asDeadliner(w), 0
	defer func() { in.sink, in.dest = nil, nil }()
	written := int64(0)
	for {
		for in.queue.size == 0 && in.end() == nil && in.sinkErr == nil {
			in.wake.Wait()
		}
		if in.sinkErr != nil {
			return written + in.sunk, in.sinkErr
		}
		if in.queue.size == 0 {
			err := in.end()
			if err == io.EOF {
				err = nil
			}
			return written + in.sunk, err
		}
		n, err := s.drain(w)
		written += int64(n)
		if err != nil && in.err != nil {
			err = in.err // the deadline was our way to interrupt
		}
		if err != nil {
			return written + in.sunk, err
		}
	}
}

// drain writes one piece of the queue, waiting for w; mu is held before and after.
func (s *Stream) drain(w io.Writer) (int, error) {
	in := &s.in
	piece := in.queue.first()
	in.draining = true
	in.mu.Unlock()
	n, err := w.Write(piece.bytes())
	in.mu.Lock()
	in.draining = false
	in.sinkErr = err // before anybody else may write
	in.count(n)
	in.taken()
	piece.release()
	credit := in.credit(n, s)
	if credit > 0 {
		in.mu.Unlock()
		s.sendCredit(credit)
		s.conn.flush()
		in.mu.Lock()
	}
	return n, err
}
