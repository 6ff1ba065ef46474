// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"io"
	"net"
	"time"
)

// blockSize is what one write of the bytes load carries.
const blockSize = 64 << 10

// bytes fills every connection for the duration; the server's summary must be that of what was sent.
func (r *runner) bytes() error {
	end := time.Now().Add(r.Duration)
	return each(len(r.conns), func(i int) error {
		var s summary
		block := newMessage(i, blockSize)
		for time.Now().Before(end) {
			block.number()
			if _, err := r.conns[i].Write(block.request); err != nil {
				return err
			}
			s.add(block.request)
		}
		if err := r.conns[i].CloseWrite(); err != nil {
			return err
		}
		var got [summarySize]byte
		if _, err := io.ReadFull(r.conns[i], got[:]); err != nil {
			return fmt.Errorf("read summary: %w", err)
		}
		if want := s.bytes(); !bytes.Equal(got[:], want) {
			return fmt.Errorf("the server's count and checksum are %x, want %x", got, want)
		}
		r.count(int64(s.n), 0, nil)
		return nil
	})
}

// requests has every connection send its next request when the answer to the last one came: a closed loop.
func (r *runner) requests() error {
	end := time.Now().Add(r.Duration)
	return each(len(r.conns), func(i int) error {
		m := newMessage(i, r.Size)
		l := make(latencies, 0, 1<<14)
		for now := time.Now(); now.Before(end); {
			if err := m.exchange(r.conns[i]); err != nil {
				return err
			}
			after := time.Now()
			l = append(l, after.Sub(now))
			now = after
		}
		r.count(0, int64(len(l)), l)
		return nil
	})
}

// paced sends requests at their appointed times, whatever became of earlier ones: an open loop. A latency counts
// from the appointed time, so that a request which had to wait for its turn doesn't look fast.
func (r *runner) paced() error {
	total := int(r.Duration.Seconds() * float64(r.Rate))
	if total < len(r.conns) {
		total = len(r.conns)
	}
	first := time.Now().Add(10 * time.Millisecond)
	due := func(k int) time.Time { return first.Add(time.Duration(k) * time.Second / time.Duration(r.Rate)) }
	return each(1+len(r.conns), func(w int) error {
		if w == 0 {
			return r.pace(total, due)
		}
		var l latencies
		c, want, got := r.conns[w-1], pacedMessage(r.Size), make([]byte, r.Size)
		for k := w - 1; k < total; k += len(r.conns) {
			if _, err := io.ReadFull(c, got); err != nil {
				return err
			}
			l = append(l, time.Since(due(k)))
			binary.BigEndian.PutUint64(want, uint64(k))
			if !bytes.Equal(got, want) {
				return fmt.Errorf("wrong answer to request %d", k)
			}
		}
		r.count(0, int64(len(l)), l)
		return nil
	})
}

func (r *runner) pace(total int, due func(int) time.Time) error {
	m := pacedMessage(r.Size)
	for k := range total {
		time.Sleep(time.Until(due(k)))
		binary.BigEndian.PutUint64(m, uint64(k))
		if _, err := r.conns[k%len(r.conns)].Write(m); err != nil {
			return err
		}
	}
	return nil
}

func pacedMessage(size int) []byte { return bytes.Repeat([]byte{'p'}, size) }

// connections has every client open a connection, exchange one message and see the end, one after the other. The
// server closes first: else the client would run out of ports.
func (r *runner) connections() error {
	end := time.Now().Add(r.Duration)
	return each(r.Conns, func(i int) error {
		m := newMessage(i, onceSize)
		hello := make([]byte, 1+onceSize)
		hello[0] = modeOnce
		var l latencies
		for now := time.Now(); now.Before(end); {
			m.number()
			copy(hello[1:], m.request)
			if err := r.once(m, hello); err != nil {
				return fmt.Errorf("connection %d of client %d: %w", len(l), i, err)
			}
			after := time.Now()
			l = append(l, after.Sub(now))
			now = after
		}
		r.count(0, int64(len(l)), l)
		return nil
	})
}

func (r *runner) once(m *message, hello []byte) error {
	c, err := net.DialTimeout("tcp", r.Target, patience)
	if err != nil {
		return err
	}
	defer c.Close()
	_ = c.SetDeadline(time.Now().Add(patience))
	if _, err := c.Write(hello); err != nil {
		return err
	}
	if err := m.receive(c); err != nil {
		return err
	}
	return ended(c)
}

// again has every connection that was idle carry one more message.
func (r *runner) again() error {
	for i, c := range r.conns {
		m := newMessage(i, r.Size)
		if err := m.exchange(c); err != nil {
			return fmt.Errorf("connection %d: %w", i, err)
		}
	}
	r.outcome.Operations = int64(len(r.conns))
	return nil
}
