// SPDX-License-Identifier: Apache-2.0

package netns

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"math/rand/v2"
	"net"
	"testing"
	"time"
)

// serve listens in the pod and gives each connection to handle, which need not close it.
func serve(t *testing.T, p *Pod, address string, handle func(*net.TCPConn)) *Listener {
	t.Helper()
	l, err := p.Listen("tcp", address)
	if err != nil {
		t.Fatalf("listen in %s: %v", p, err)
	}
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			go func() {
				defer c.Close()
				handle(c.(*net.TCPConn))
			}()
		}
	}()
	return l
}

// dial connects and sets a deadline for everything that follows on the connection.
func dial(t testing.TB, p *Pod, network, address string, within time.Duration) *net.TCPConn {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), within)
	defer cancel()
	c, err := p.Dial(ctx, network, address)
	if err != nil {
		t.Fatalf("dial %s from %s: %v", address, p, err)
	}
	_ = c.SetDeadline(time.Now().Add(within))
	return c.(*net.TCPConn)
}

const blockSize = 64 << 10

// sendBlocks writes n bytes of numbered blocks and returns their checksum.
func sendBlocks(w io.Writer, n int64) (uint32, error) {
	block := make([]byte, blockSize)
	random := rand.NewChaCha8([32]byte{1})
	_, _ = random.Read(block)
	sum := crc32.New(crc32.MakeTable(crc32.Castagnoli))
	for i := uint64(0); n > 0; i++ {
		binary.BigEndian.PutUint64(block, i)
		b := block[:min(n, blockSize)]
		if _, err := w.Write(b); err != nil {
			return 0, fmt.Errorf("write block %d: %w", i, err)
		}
		_, _ = sum.Write(b)
		n -= int64(len(b))
	}
	return sum.Sum32(), nil
}

// receiveAll reads until EOF and returns how much it was and its checksum.
func receiveAll(r io.Reader) (int64, uint32, error) {
	sum := crc32.New(crc32.MakeTable(crc32.Castagnoli))
	n, err := io.CopyBuffer(struct{ io.Writer }{sum}, struct{ io.Reader }{r}, make([]byte, blockSize))
	return n, sum.Sum32(), err
}

// ping sends a line over an open echo connection and wants it back.
func ping(c *net.TCPConn, line string) error {
	_ = c.SetDeadline(time.Now().Add(5 * time.Second))
	if _, err := fmt.Fprintln(c, line); err != nil {
		return err
	}
	b := make([]byte, len(line)+1)
	if _, err := io.ReadFull(c, b); err != nil {
		return err
	}
	if string(b) != line+"\n" {
		return fmt.Errorf("got %q, want %q", b, line)
	}
	return nil
}

// openEcho opens a connection to an echo server and reads its greeting.
func openEcho(t *testing.T, p *Pod, network, address string) *net.TCPConn {
	t.Helper()
	c := dial(t, p, network, address, 10*time.Second)
	b := make([]byte, 1)
	for b[0] != '\n' {
		if _, err := c.Read(b); err != nil {
			t.Fatalf("greeting of %s to %s: %v", address, p, err)
		}
	}
	return c
}

// ending waits for the end of a connection and says what it was: nil for EOF.
func ending(c net.Conn, within time.Duration) error {
	_ = c.SetDeadline(time.Now().Add(within))
	_, err := io.Copy(io.Discard, c)
	if errors.Is(err, io.EOF) {
		return nil
	}
	return err
}
