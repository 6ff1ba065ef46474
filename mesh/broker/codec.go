// SPDX-License-Identifier: Apache-2.0

package broker

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
)

// Errors of the codec; match them with errors.Is.
var (
	ErrVersion  = errors.New("unknown protocol version")
	ErrType     = errors.New("unknown message type")
	ErrTooLong  = errors.New("message too long")
	ErrMalform  = errors.New("malformed message")
	ErrTruncate = errors.New("descriptors lost (RLIMIT_NOFILE may be too low)")
)

const headerSize = 4 // version, type, two zero bytes

// Message is one datagram without its descriptors. Read the body with Into.
type Message struct {
	Type Type
	Body []byte // JSON
}

// Encode makes the datagram of a message. It fails on a body longer than MaxBody.
func Encode(t Type, body any) ([]byte, error) {
	var b bytes.Buffer
	b.Write([]byte{Version, byte(t), 0, 0})
	if err := json.NewEncoder(&b).Encode(body); err != nil {
		return nil, fmt.Errorf("encode broker message %d: %w", t, err)
	}
	d := bytes.TrimSuffix(b.Bytes(), []byte("\n"))
	if len(d) > headerSize+MaxBody {
		return nil, fmt.Errorf("encode broker message %d: %w (%d bytes)", t, ErrTooLong, len(d))
	}
	return d, nil
}

// Decode takes a datagram apart. The body aliases b. Unknown versions and types, overlong and malformed
// datagrams are errors: a peer that speaks otherwise is not understood half.
func Decode(b []byte) (Message, error) {
	switch {
	case len(b) < headerSize:
		return Message{}, fmt.Errorf("decode broker message: %w (%d bytes)", ErrMalform, len(b))
	case b[0] != Version:
		return Message{}, fmt.Errorf("decode broker message: %w %d (this is %d)", ErrVersion, b[0], Version)
	case !Type(b[1]).known():
		return Message{}, fmt.Errorf("decode broker message: %w %d", ErrType, b[1])
	case b[2] != 0 || b[3] != 0:
		return Message{}, fmt.Errorf("decode broker message: %w (reserved bytes set)", ErrMalform)
	case len(b) > headerSize+MaxBody:
		return Message{}, fmt.Errorf("decode broker message: %w (%d bytes)", ErrTooLong, len(b))
	}
	return Message{Type: Type(b[1]), Body: b[headerSize:]}, nil
}

// Into reads the body into v, which must be of the type the message's Type tells. Unknown fields and
// anything behind the value are errors.
func (m Message) Into(v any) error {
	d := json.NewDecoder(bytes.NewReader(m.Body))
	d.DisallowUnknownFields()
	if err := d.Decode(v); err != nil {
		return fmt.Errorf("decode broker message %d: %w: %w", m.Type, ErrMalform, err)
	}
	if _, err := d.Token(); err != io.EOF {
		return fmt.Errorf("decode broker message %d: %w (bytes behind the body)", m.Type, ErrMalform)
	}
	return nil
}
