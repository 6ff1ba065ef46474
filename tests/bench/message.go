// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"io"
	"net"
)

// message is a request of one connection; no two of a run are the same.
type message struct {
	request, answer []byte
	next            uint64
}

// newMessage makes messages of size bytes, at least 8.
func newMessage(conn, size int) *message {
	m := &message{request: make([]byte, size), answer: make([]byte, size), next: uint64(conn) << 40}
	for i := range m.request {
		m.request[i] = byte(i*7 + conn)
	}
	return m
}

// number makes it the next message.
func (m *message) number() {
	m.next++
	binary.BigEndian.PutUint64(m.request, m.next)
}

// exchange sends the next message and wants it back.
func (m *message) exchange(c net.Conn) error {
	m.number()
	if _, err := c.Write(m.request); err != nil {
		return err
	}
	return m.receive(c)
}

// receive wants the message that was sent last.
func (m *message) receive(c net.Conn) error {
	if _, err := io.ReadFull(c, m.answer); err != nil {
		return err
	}
	if !bytes.Equal(m.request, m.answer) {
		return fmt.Errorf("wrong answer: %x, sent %x", m.answer, m.request)
	}
	return nil
}
