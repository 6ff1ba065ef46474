// SPDX-License-Identifier: Apache-2.0

package hbone

import (
	"golang.org/x/net/http2/hpack"

	"github.com/warren-mesh/warren/ztunnel/record"
)

// maxPieces bounds how many payload pieces are gathered for one write to an application.
const maxPieces = 64

// reader cuts the byte stream of a connection into frames. Payload of DATA goes on as it comes, in pieces; other
// frames are put together first, copied only if they span pieces.
type reader struct {
	conn   *conn
	greet  int // bytes of the preface still to come (server)
	opened bool
	head   [record.FrameHeaderSize]byte
	headN  int
	frame  frameHeader
	inside bool // within frame
	rest   int  // bytes of frame still to come, padding apart
	pad    int  // padding still to come; -1 if its length is still to come
	whole  []byte

	window window
	flood  flood

	// DATA: the stream of the current frame and the pieces gathered for it.
	stream *Stream
	pieces [][]byte

	// Header block under way: HEADERS without END_HEADERS came.
	headers   bool
	blockID   uint32
	blockEnd  bool
	blockSize int
	frames    int
	block     headerBlock
	decoder   *hpack.Decoder
}

func (r *reader) init(c *conn) {
	r.conn = c
	if !c.client {
		r.greet = len(preface)
	}
	r.window = window{size: connWindow, avail: connWindow}
	r.flood.last = monotonic()
	r.block.limit = c.config.HeaderLimit
	r.decoder = hpack.NewDecoder(4096, r.block.add)
	r.decoder.SetMaxStringLength(c.config.HeaderLimit)
}

// feed takes the next bytes of the connection. The bytes are not used after endBatch.
func (r *reader) feed(p []byte) error {
	if r.greet > 0 {
		n := min(len(p), r.greet)
		at := len(preface) - r.greet
		if string(p[:n]) != preface[at:at+n] {
			return connError(CodeProtocol, "preface is not HTTP/2's")
		}
		r.greet -= n
		p = p[n:]
	}
	for len(p) > 0 {
		if !r.inside {
			n := copy(r.head[r.headN:], p)
			r.headN += n
			p = p[n:]
			if r.headN < len(r.head) {
				return nil
			}
			r.headN = 0
			if err := r.begin(parseFrameHeader(r.head[:])); err != nil {
				return err
			}
			if r.inside {
				continue
			}
		}
		var err error
		if r.frame.typ == frameData {
			p, err = r.data(p)
		} else {
			p, err = r.control(p)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// begin checks what can be checked by a frame's header alone. An empty frame is handled at once.
func (r *reader) begin(h frameHeader) error {
	switch {
	case h.length > maxFrame:
		return connError(CodeFrameSize, "frame of %d bytes", h.length)
	case !r.opened && (h.typ != frameSettings || h.has(flagAck)):
		return connError(CodeProtocol, "first frame is of type %d, not SETTINGS", h.typ)
	case r.headers && (h.typ != frameContinuation || h.stream != r.blockID):
		return connError(CodeProtocol, "frame of type %d inside a header block", h.typ)
	}
	r.opened = true
	r.frame, r.rest, r.pad, r.inside = h, h.length, 0, true
	if h.typ == frameData {
		if err := r.beginData(h); err != nil {
			return err
		}
		if r.rest == 0 && r.pad == 0 {
			return r.endData()
		}
		return nil
	}
	if h.length == 0 {
		r.inside = false
		return r.handle(nil)
	}
	return nil
}

// control gathers a frame other than DATA and handles it when it is whole.
func (r *reader) control(p []byte) ([]byte, error) {
	n := min(len(p), r.rest)
	r.rest -= n
	if r.rest > 0 {
		r.whole = append(r.whole, p[:n]...)
		return p[n:], nil
	}
	r.inside = false
	frame := p[:n]
	if len(r.whole) > 0 {
		r.whole = append(r.whole, frame...)
		frame = r.whole
		defer func() { r.whole = nil }()
	}
	return p[n:], r.handle(frame)
}

// endBatch hands over what was gathered, before the memory it lies in is used again.
func (r *reader) endBatch() error {
	r.deliver()
	r.conn.kick()
	return r.conn.overdrawn()
}
