// SPDX-License-Identifier: Apache-2.0

package hbone

import (
	"errors"
	"fmt"
	"io"
)

// Code is an HTTP/2 error code (RFC 9113 section 7).
type Code uint32

// The codes of RFC 9113.
const (
	CodeNo                 Code = 0x0
	CodeProtocol           Code = 0x1
	CodeInternal           Code = 0x2
	CodeFlowControl        Code = 0x3
	CodeSettingsTimeout    Code = 0x4
	CodeStreamClosed       Code = 0x5
	CodeFrameSize          Code = 0x6
	CodeRefusedStream      Code = 0x7
	CodeCancel             Code = 0x8
	CodeCompression        Code = 0x9
	CodeConnect            Code = 0xa
	CodeEnhanceYourCalm    Code = 0xb
	CodeInadequateSecurity Code = 0xc
	CodeHTTP11Required     Code = 0xd
)

var codeNames = [...]string{"NO_ERROR", "PROTOCOL_ERROR", "INTERNAL_ERROR", "FLOW_CONTROL_ERROR", "SETTINGS_TIMEOUT",
	"STREAM_CLOSED", "FRAME_SIZE_ERROR", "REFUSED_STREAM", "CANCEL", "COMPRESSION_ERROR", "CONNECT_ERROR",
	"ENHANCE_YOUR_CALM", "INADEQUATE_SECURITY", "HTTP_1_1_REQUIRED"}

// String returns the RFC's name.
func (c Code) String() string {
	if int(c) < len(codeNames) {
		return codeNames[c]
	}
	return fmt.Sprintf("CODE_%#x", uint32(c))
}

var (
	// ErrConnectionLost ends every stream that was alive when its connection ended, even if TLS ended in order:
	// an application must never take it for the end of its peer's data. The cause is in the text.
	ErrConnectionLost = errors.New("tunnel connection lost")
	// ErrGoingAway: the connection takes no new streams; another one does.
	ErrGoingAway = errors.New("open stream: connection is going away")
	// ErrFull: the peer's number of concurrent streams is reached; another connection is needed.
	ErrFull = errors.New("open stream: peer's concurrent streams are used up")
	// ErrPoolClosed: the pool, or the pool of this pod, was closed.
	ErrPoolClosed = errors.New("open stream: pool is closed")
)

// ConnError is a peer's fault that ends the connection.
type ConnError struct {
	Code  Code
	Cause string
}

func (e *ConnError) Error() string { return fmt.Sprintf("connection error %s: %s", e.Code, e.Cause) }

// StreamError is a peer's fault that ends one stream.
type StreamError struct {
	Stream uint32
	Code   Code
	Cause  string
}

func (e *StreamError) Error() string {
	return fmt.Sprintf("stream %d error %s: %s", e.Stream, e.Code, e.Cause)
}

// ResetError ends a stream that either side reset.
type ResetError struct {
	Code  Code
	Local bool // this side reset it
	Cause string
}

func (e *ResetError) Error() string {
	by := "peer"
	if e.Local {
		by = "this side"
	}
	if e.Cause != "" {
		return fmt.Sprintf("stream reset by %s: %s: %s", by, e.Code, e.Cause)
	}
	return fmt.Sprintf("stream reset by %s: %s", by, e.Code)
}

// StatusError is any answer to CONNECT but 200.
type StatusError struct{ Status int }

func (e *StatusError) Error() string { return fmt.Sprintf("connect refused: http status %d", e.Status) }

// lost wraps the cause of a connection's end. io.EOF stays out of the chain, so that errors.Is never finds it.
func lost(cause error) error {
	switch {
	case cause == nil:
		return ErrConnectionLost
	case errors.Is(cause, ErrConnectionLost):
		return cause
	case errors.Is(cause, io.EOF):
		return fmt.Errorf("%w: closed by peer", ErrConnectionLost)
	}
	return fmt.Errorf("%w: %w", ErrConnectionLost, cause)
}

func connError(code Code, format string, args ...any) error {
	return &ConnError{Code: code, Cause: fmt.Sprintf(format, args...)}
}
