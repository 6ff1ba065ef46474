// SPDX-License-Identifier: Apache-2.0

package tracing

import (
	"encoding/hex"
	"math/rand/v2"
)

// Context names a span: what W3C Trace Context calls traceparent. The zero value names none.
type Context struct {
	Trace   [16]byte
	Span    [8]byte
	Sampled bool
}

// NewContext names a first span of a new trace.
func NewContext() Context {
	var c Context
	for c.Trace == ([16]byte{}) {
		put(c.Trace[:8], rand.Uint64())
		put(c.Trace[8:], rand.Uint64())
	}
	return c.Child()
}

// Child names another span of the same trace.
func (c Context) Child() Context {
	c.Span = [8]byte{}
	for c.Span == ([8]byte{}) {
		put(c.Span[:], rand.Uint64())
	}
	return c
}

func put(b []byte, v uint64) {
	for i := range b {
		b[i] = byte(v >> (56 - 8*i))
	}
}

// IsZero reports whether c names no span.
func (c Context) IsZero() bool { return c == Context{} }

// TraceID is the trace's id in hexadecimal, "" of the zero value.
func (c Context) TraceID() string {
	if c.Trace == ([16]byte{}) {
		return ""
	}
	return hex.EncodeToString(c.Trace[:])
}

// Header writes c as traceparent.
func (c Context) Header() string {
	b := make([]byte, 0, 55)
	b = append(b, "00-"...)
	b = hex.AppendEncode(b, c.Trace[:])
	b = append(b, '-')
	b = hex.AppendEncode(b, c.Span[:])
	if c.Sampled {
		return string(append(b, "-01"...))
	}
	return string(append(b, "-00"...))
}

// Parse reads a traceparent of any version; the zero value if it is none. Letters are lower case, as the standard
// wants, and ids that are all zero name nothing.
func Parse(s string) Context {
	var c Context
	var flags, version [1]byte
	const length = 2 + 1 + 32 + 1 + 16 + 1 + 2
	if len(s) < length || s[2] != '-' || s[35] != '-' || s[52] != '-' ||
		!decode(version[:], s[:2]) || !decode(c.Trace[:], s[3:35]) || !decode(c.Span[:], s[36:52]) || !decode(flags[:], s[53:55]) {
		return Context{}
	}
	if version[0] == 0xff || version[0] == 0 && len(s) != length || len(s) > length && s[length] != '-' {
		return Context{}
	}
	if c.Trace == ([16]byte{}) || c.Span == ([8]byte{}) {
		return Context{}
	}
	c.Sampled = flags[0]&1 != 0
	return c
}

// decode fills b from lower-case hexadecimal.
func decode(b []byte, s string) bool {
	for i := range len(s) {
		if 'A' <= s[i] && s[i] <= 'F' {
			return false
		}
	}
	_, err := hex.Decode(b, []byte(s))
	return err == nil
}
