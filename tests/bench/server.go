// SPDX-License-Identifier: Apache-2.0

package main

import (
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"net"
	"os"
)

// The first byte of a connection says what its server is to do.
const (
	modeEcho = 'e' // send back what comes
	modeOnce = 'o' // send back onceSize bytes and close
	modeSink = 's' // count what comes, and answer with its summary at the end
)

// onceSize is what a connection of modeOnce carries each way, in bytes.
const onceSize = 64

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// serve is the application that answers.
func serve(address string) error {
	l, err := net.Listen("tcp", address)
	if err != nil {
		return err
	}
	fmt.Println(readyLine)
	go func() { // an orphan ends with whoever started it
		_, _ = io.Copy(io.Discard, os.Stdin)
		l.Close()
	}()
	for {
		c, err := l.Accept()
		if errors.Is(err, net.ErrClosed) {
			return nil
		}
		if err != nil {
			return err
		}
		go answer(c.(*net.TCPConn))
	}
}

func answer(c *net.TCPConn) {
	defer c.Close()
	var mode [1]byte
	if _, err := io.ReadFull(c, mode[:]); err != nil {
		return
	}
	switch mode[0] {
	case modeEcho:
		echo(c)
	case modeOnce:
		var b [onceSize]byte
		if _, err := io.ReadFull(c, b[:]); err == nil {
			_, _ = c.Write(b[:])
		}
	case modeSink:
		sink(c)
	}
}

// echo doesn't use io.Copy: splicing a socket to itself costs more than small messages are worth.
func echo(c *net.TCPConn) {
	b := make([]byte, 4096)
	for {
		n, err := c.Read(b)
		if err != nil {
			return
		}
		if _, err := c.Write(b[:n]); err != nil {
			return
		}
	}
}

func sink(c *net.TCPConn) {
	var s summary
	b := make([]byte, 256<<10)
	for {
		n, err := c.Read(b)
		s.add(b[:n])
		if err == io.EOF {
			_, _ = c.Write(s.bytes())
			return
		}
		if err != nil {
			return
		}
	}
}

// summary is how many bytes passed, and their CRC-32C.
type summary struct {
	n   uint64
	sum uint32
}

const summarySize = 12

func (s *summary) add(b []byte) {
	s.n += uint64(len(b))
	s.sum = crc32.Update(s.sum, castagnoli, b)
}

func (s *summary) bytes() []byte {
	return binary.BigEndian.AppendUint32(binary.BigEndian.AppendUint64(nil, s.n), s.sum)
}
