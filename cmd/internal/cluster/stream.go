// SPDX-License-Identifier: Apache-2.0

package cluster

import (
	"errors"
	"io"
	"net"
	"strings"
	"time"

	"k8s.io/streaming/pkg/httpstream"
)

// stream is one forwarded connection. It has no deadlines: whoever asks has one of his own, and closes it.
type stream struct {
	httpstream.Stream
	conn       httpstream.Connection
	complaints httpstream.Stream
	complaint  chan error // holds what the other side complained of, nil for nothing, once it is known
}

var _ net.Conn = (*stream)(nil)

func newStream(conn httpstream.Connection, data, complaints httpstream.Stream) *stream {
	s := &stream{Stream: data, conn: conn, complaints: complaints, complaint: make(chan error, 1)}
	go func() {
		b, err := io.ReadAll(io.LimitReader(complaints, 4096))
		if len(b) > 0 {
			err = errors.New(strings.TrimSpace(string(b)))
		}
		s.complaint <- err
	}()
	return s
}

// Read tells why there is nothing to read, where the other side says so.
func (s *stream) Read(b []byte) (int, error) {
	n, err := s.Stream.Read(b)
	if n == 0 && err != nil {
		select {
		case why := <-s.complaint:
			if s.complaint <- why; why != nil {
				err = why
			}
		case <-time.After(time.Second): // it comes on a stream of its own
		}
	}
	return n, err
}

// Close ends both directions.
func (s *stream) Close() error {
	err := s.Stream.Reset()
	s.conn.RemoveStreams(s.Stream, s.complaints)
	return errors.Join(err, s.complaints.Reset())
}

type address struct{}

func (address) Network() string { return "portforward" }
func (address) String() string  { return "pod" }

func (s *stream) LocalAddr() net.Addr              { return address{} }
func (s *stream) RemoteAddr() net.Addr             { return address{} }
func (s *stream) SetDeadline(time.Time) error      { return nil }
func (s *stream) SetReadDeadline(time.Time) error  { return nil }
func (s *stream) SetWriteDeadline(time.Time) error { return nil }
