// SPDX-License-Identifier: Apache-2.0

package record

import "sync"

// The layout of a slot: room for the TLS record header, the frame header, the payload, and for the content type
// and tag behind it, so that an own record layer seals a frame where it lies.
const (
	// HeaderSize is what a TLS record puts in front of its plaintext, in bytes.
	HeaderSize = 5
	// FrameHeaderSize is the size of an HTTP/2 frame header in bytes (RFC 9113 section 4.1).
	FrameHeaderSize = 9
	// MaxPlaintext is the most plaintext one TLS record carries, in bytes (RFC 8446 section 5.1).
	MaxPlaintext = 16384
	// MaxPayload is the largest DATA payload whose frame still fits one record.
	MaxPayload = MaxPlaintext - FrameHeaderSize
	// TrailerSize is the inner content type and the AEAD tag.
	TrailerSize = 1 + 16
	// SlotSize is the size of one slot in memory.
	SlotSize = HeaderSize + MaxPlaintext + TrailerSize
	// MaxSlots is the number of slots in a large batch.
	MaxSlots = 32
)

// Slots is a pooled run of one or MaxSlots slots. It belongs to one goroutine at a time.
type Slots struct {
	memory []byte
	filled [MaxSlots]int // plaintext bytes of each slot, frame header included
	count  int
}

var (
	onePool  = sync.Pool{New: func() any { return &Slots{memory: make([]byte, SlotSize), count: 1} }}
	manyPool = sync.Pool{New: func() any { return &Slots{memory: make([]byte, MaxSlots*SlotSize), count: MaxSlots} }}
)

// GetSlots takes a run of at least n slots from the pool, n at most MaxSlots. Give it back with Put.
func GetSlots(n int) *Slots {
	if n <= 1 {
		return onePool.Get().(*Slots)
	}
	return manyPool.Get().(*Slots)
}

// Put gives the slots back; they must not be used afterwards.
func (s *Slots) Put() {
	if s.count == 1 {
		onePool.Put(s)
		return
	}
	manyPool.Put(s)
}

// Len is the number of slots: 1 or MaxSlots.
func (s *Slots) Len() int { return s.count }

// Payload is the room for the DATA payload of slot i, MaxPayload bytes.
func (s *Slots) Payload(i int) []byte {
	o := i*SlotSize + HeaderSize + FrameHeaderSize
	return s.memory[o : o+MaxPayload : o+MaxPayload]
}

// Frame marks slot i as holding n bytes of payload and returns its frame header to be filled in.
func (s *Slots) Frame(i, n int) []byte {
	s.filled[i] = FrameHeaderSize + n
	o := i*SlotSize + HeaderSize
	return s.memory[o : o+FrameHeaderSize : o+FrameHeaderSize]
}

// Plaintext is the frame in slot i, header and payload.
func (s *Slots) Plaintext(i int) []byte {
	o := i*SlotSize + HeaderSize
	return s.memory[o : o+s.filled[i]]
}
