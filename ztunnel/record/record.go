// SPDX-License-Identifier: Apache-2.0

// Package record is the seam between TLS records and HTTP/2 frames: batches of decrypted bytes come up, frames
// laid out in slots go down, one DATA frame to one TLS record. What lies below (crypto/tls now) is not seen above.
package record

import (
	"crypto/tls"
	"net"
	"time"
)

// Conn carries the bytes of one HTTP/2 connection over TLS records.
//
// One goroutine at a time may call ReadBatch, and one at a time Write or WriteSlots; a reader, a writer and
// Close may run at once. An implementation never lets a read wait for a write.
type Conn interface {
	// ReadBatch waits for decrypted bytes and returns all that can be had without waiting again, in order and
	// none empty. The slices are valid until the next call. A peer that ended TLS in order yields io.EOF;
	// bytes and an error never come together.
	ReadBatch() ([][]byte, error)
	// Write sends frames, packed into as few records as they need.
	Write(frames []byte) error
	// WriteSlots sends the first n slots, each as a record of its own. Their contents are destroyed.
	WriteSlots(s *Slots, n int) error
	// SetDeadline bounds reads and writes under way and to come; after a write that timed out only Close is left.
	SetDeadline(t time.Time) error
	// ConnectionState describes the finished handshake.
	ConnectionState() tls.ConnectionState
	LocalAddr() net.Addr
	RemoteAddr() net.Addr
	// CloseWrite ends this side with close_notify; reading goes on. It counts as a write, the last one.
	CloseWrite() error
	// Close sends close_notify if that needs no waiting, and closes the socket. Safe to call more than once.
	Close() error
}
