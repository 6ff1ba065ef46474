// SPDX-License-Identifier: Apache-2.0

package hbone

import (
	"errors"

	"golang.org/x/net/http2/hpack"
)

// onHeaders takes a HEADERS frame; the block may go on in CONTINUATION frames.
func (r *reader) onHeaders(h frameHeader, b []byte) error {
	if h.stream == 0 {
		return connError(CodeProtocol, "HEADERS on stream 0")
	}
	if h.has(flagPadded) {
		if len(b) < 1 || int(b[0]) >= len(b) {
			return connError(CodeProtocol, "padding longer than its frame")
		}
		b = b[1 : len(b)-int(b[0])]
	}
	if h.has(flagPriority) {
		if len(b) < 5 {
			return connError(CodeFrameSize, "HEADERS too short for its priority")
		}
		b = b[5:]
	}
	r.headers, r.blockID, r.blockEnd = true, h.stream, h.has(flagEndStream)
	r.blockSize, r.frames = 0, 0
	r.block.reset()
	return r.fragment(h, b)
}

func (r *reader) onContinuation(h frameHeader, b []byte) error {
	if !r.headers {
		return connError(CodeProtocol, "CONTINUATION without HEADERS")
	}
	if r.frames++; r.frames > maxContinuations {
		return connError(CodeEnhanceYourCalm, "header block in more than %d frames", maxContinuations)
	}
	return r.fragment(h, b)
}

// fragment decodes as much of a block as came, so that nothing is put aside.
func (r *reader) fragment(h frameHeader, b []byte) error {
	if r.blockSize += len(b); r.blockSize > r.conn.config.HeaderLimit {
		return connError(CodeEnhanceYourCalm, "header block of more than %d bytes", r.conn.config.HeaderLimit)
	}
	if _, err := r.decoder.Write(b); errors.Is(err, hpack.ErrStringLength) {
		return connError(CodeEnhanceYourCalm, "header field of more than %d bytes", r.conn.config.HeaderLimit)
	} else if err != nil {
		return connError(CodeCompression, "header block: %v", err)
	}
	if !h.has(flagEndHeaders) {
		return nil
	}
	r.headers = false
	if err := r.decoder.Close(); err != nil {
		return connError(CodeCompression, "header block: %v", err)
	}
	defer r.block.reset()
	return r.onBlock()
}

// onBlock finds out what a whole block is: a request, an answer, or trailers.
func (r *reader) onBlock() error {
	c := r.conn
	c.mu.Lock()
	s, idle := c.streams[r.blockID], c.idle(r.blockID)
	c.mu.Unlock()
	switch {
	case s != nil:
		r.deliver()
		if !c.client || s.answered.Load() {
			return r.onTrailers(s)
		}
		return r.onAnswer(s)
	case !idle:
		return r.strayHeaders()
	case c.client:
		return connError(CodeProtocol, "HEADERS on idle stream %d", r.blockID)
	case r.blockID%2 == 0:
		return connError(CodeProtocol, "client opened even stream %d", r.blockID)
	}
	return r.onRequest()
}

// strayHeaders: an answer or trailers may cross our reset, one of each for each reset.
func (r *reader) strayHeaders() error {
	c := r.conn
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.strayHeads--; c.strayHeads < 0 {
		return connError(CodeStreamClosed, "HEADERS on closed streams")
	}
	return nil
}

func (r *reader) onTrailers(s *Stream) error {
	switch {
	case s.remoteEnded():
		return &StreamError{s.id, CodeStreamClosed, "HEADERS behind the end"}
	case !r.blockEnd:
		return &StreamError{s.id, CodeProtocol, "trailers without END_STREAM"}
	case len(r.block.pseudo) > 0 || r.block.fault != "":
		return &StreamError{s.id, CodeProtocol, "malformed trailers"}
	}
	s.arriveEnd()
	return nil
}

// onAnswer takes what the server says to CONNECT.
func (r *reader) onAnswer(s *Stream) error {
	status := r.block.pseudo[":status"]
	switch {
	case r.block.tooLarge():
		return &StreamError{s.id, CodeEnhanceYourCalm, "answer's header list is too large"}
	case r.block.fault != "":
		return &StreamError{s.id, CodeProtocol, r.block.fault}
	case !r.block.only(":status") || !validStatus(status):
		return &StreamError{s.id, CodeProtocol, "answer without a proper status"}
	case status[0] == '1':
		if r.blockEnd {
			return &StreamError{s.id, CodeProtocol, "interim answer ends the stream"}
		}
		return r.flood.draw("interim answers")
	}
	code := int(status[0]-'0')*100 + int(status[1]-'0')*10 + int(status[2]-'0')
	if s.answer(code, r.block.header); r.blockEnd {
		s.arriveEnd()
	}
	return nil
}

func validStatus(s string) bool {
	return len(s) == 3 && s[0] >= '1' && s[0] <= '5' && s[1] >= '0' && s[1] <= '9' && s[2] >= '0' && s[2] <= '9'
}

// onRequest opens a stream of the peer's.
func (r *reader) onRequest() error {
	c := r.conn
	c.mu.Lock()
	c.lastID = r.blockID
	refused := c.final || c.err != nil || max(len(c.streams), c.handlers) >= int(c.config.MaxStreams)
	c.mu.Unlock()
	switch {
	case refused:
		return &StreamError{r.blockID, CodeRefusedStream, "too many streams, or going away"}
	case r.block.tooLarge():
		return &StreamError{r.blockID, CodeEnhanceYourCalm, "header list is too large"}
	case r.block.fault != "":
		return &StreamError{r.blockID, CodeProtocol, r.block.fault}
	}
	r.serve(&r.block)
	return nil
}
