// SPDX-License-Identifier: Apache-2.0

package hbone

import (
	"encoding/binary"

	"github.com/warren-mesh/warren/ztunnel/record"
)

type frameType uint8

// Frame types of RFC 9113 section 6.
const (
	frameData frameType = iota
	frameHeaders
	framePriority
	frameReset
	frameSettings
	framePushPromise
	framePing
	frameGoAway
	frameWindowUpdate
	frameContinuation
)

const (
	flagEndStream  = 0x1
	flagAck        = 0x1
	flagEndHeaders = 0x4
	flagPadded     = 0x8
	flagPriority   = 0x20
)

const (
	settingHeaderTableSize   = 0x1
	settingEnablePush        = 0x2
	settingMaxStreams        = 0x3
	settingInitialWindowSize = 0x4
	settingMaxFrameSize      = 0x5
	settingMaxHeaderListSize = 0x6
)

const (
	preface = "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
	// maxFrame is the protocol's smallest limit, which we advertise by saying nothing and keep to ourselves.
	maxFrame  = 16384
	maxWindow = 1<<31 - 1
	maxID     = 1<<31 - 1
)

type frameHeader struct {
	length int
	typ    frameType
	flags  uint8
	stream uint32
}

func (h frameHeader) has(flag uint8) bool { return h.flags&flag != 0 }

func parseFrameHeader(b []byte) frameHeader {
	_ = b[record.FrameHeaderSize-1]
	return frameHeader{
		length: int(b[0])<<16 | int(b[1])<<8 | int(b[2]),
		typ:    frameType(b[3]),
		flags:  b[4],
		stream: binary.BigEndian.Uint32(b[5:]) & maxID,
	}
}

func (h frameHeader) put(b []byte) {
	_ = b[record.FrameHeaderSize-1]
	b[0], b[1], b[2] = byte(h.length>>16), byte(h.length>>8), byte(h.length)
	b[3], b[4] = byte(h.typ), h.flags
	binary.BigEndian.PutUint32(b[5:], h.stream)
}

func appendFrame(b []byte, typ frameType, flags uint8, stream uint32, payload []byte) []byte {
	var h [record.FrameHeaderSize]byte
	frameHeader{len(payload), typ, flags, stream}.put(h[:])
	return append(append(b, h[:]...), payload...)
}

func appendUint32Frame(b []byte, typ frameType, stream, value uint32) []byte {
	var p [4]byte
	binary.BigEndian.PutUint32(p[:], value)
	return appendFrame(b, typ, 0, stream, p[:])
}

func appendSettings(b []byte, settings ...uint32) []byte {
	p := make([]byte, 0, len(settings)*3)
	for i := 0; i < len(settings); i += 2 {
		p = binary.BigEndian.AppendUint16(p, uint16(settings[i]))
		p = binary.BigEndian.AppendUint32(p, settings[i+1])
	}
	return appendFrame(b, frameSettings, 0, 0, p)
}

func appendGoAway(b []byte, last uint32, code Code, text string) []byte {
	p := binary.BigEndian.AppendUint32(nil, last)
	p = binary.BigEndian.AppendUint32(p, uint32(code))
	return appendFrame(b, frameGoAway, 0, 0, append(p, text...))
}

// appendHeaders splits a header block over HEADERS and CONTINUATION frames.
func appendHeaders(b []byte, stream uint32, block []byte, endStream bool) []byte {
	typ, flags := frameHeaders, uint8(0)
	if endStream {
		flags = flagEndStream
	}
	for {
		n := min(len(block), maxFrame)
		if n == len(block) {
			flags |= flagEndHeaders
		}
		b = appendFrame(b, typ, flags, stream, block[:n])
		if block = block[n:]; len(block) == 0 {
			return b
		}
		typ, flags = frameContinuation, 0
	}
}
