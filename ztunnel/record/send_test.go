// SPDX-License-Identifier: Apache-2.0

package record

import (
	"bytes"
	"errors"
	"net"
	"os"
	"syscall"
	"testing"
	"time"
)

// small gives both ends of a connection small buffers, so that a write has to wait for its reader.
func small(c net.Conn) net.Conn {
	t := c.(*net.TCPConn)
	_, _ = t.SetReadBuffer(32<<10), t.SetWriteBuffer(32<<10)
	return Buffered(t)
}

// TestWriteWaitsForRoom writes far more than the socket takes at once; everything arrives once somebody reads.
func TestWriteWaitsForRoom(t *testing.T) {
	c, s := pair(t, small)
	from, to := OverTLS(c), OverTLS(s)
	want := bytes.Repeat([]byte("sixteen bytes.. "), 4<<20/16)
	done := make(chan error, 1)
	go func() { done <- from.Write(want) }()
	select {
	case err := <-done:
		t.Fatalf("nobody reads, and yet the write ended: %v", err)
	case <-time.After(50 * time.Millisecond):
	}
	var got []byte
	for len(got) < len(want) {
		batch, err := to.ReadBatch()
		if err != nil {
			t.Fatal(err)
		}
		for _, b := range batch {
			got = append(got, b...)
		}
	}
	if err := <-done; err != nil || !bytes.Equal(got, want) {
		t.Errorf("%v; the bytes are the same: %t", err, bytes.Equal(got, want))
	}
}

// TestWriteEnds has a write that waits for room ended by its deadline, and by the other end's reset.
func TestWriteEnds(t *testing.T) {
	tests := []struct {
		name string
		end  func(from, to Conn)
		want error
	}{
		{"deadline", func(from, _ Conn) { _ = from.SetDeadline(time.Unix(1, 0)) }, os.ErrDeadlineExceeded},
		{"reset", func(_, to Conn) {
			below := Underlying(to.(*overTLS).tls).(*net.TCPConn)
			_ = below.SetLinger(0)
			_ = below.Close()
		}, syscall.ECONNRESET},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			c, s := pair(t, small)
			from, to := OverTLS(c), OverTLS(s)
			done := make(chan error, 1)
			go func() { done <- from.Write(make([]byte, 4<<20)) }()
			select {
			case err := <-done:
				t.Fatalf("the write ended by itself: %v", err)
			case <-time.After(50 * time.Millisecond):
			}
			tt.end(from, to)
			select {
			case err := <-done:
				if !errors.Is(err, tt.want) {
					t.Errorf("got %v, want %v", err, tt.want)
				}
			case <-time.After(10 * time.Second):
				t.Fatal("the write still waits")
			}
			if err := from.Write([]byte("x")); err == nil {
				t.Error("a write behind a failed one succeeds")
			}
		})
	}
}
