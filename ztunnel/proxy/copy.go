// SPDX-License-Identifier: Apache-2.0

package proxy

import (
	"io"
	"sync/atomic"

	"github.com/warren-mesh/warren/ztunnel/hbone"
	"github.com/warren-mesh/warren/ztunnel/inpod"
)

// side is one end of a relay: an application's connection, or a stream of a tunnel.
type side interface {
	io.Reader
	io.Writer
	// CloseWrite says that no more will be written: FIN, or END_STREAM.
	CloseWrite() error
	// abort ends it so that the other end sees a broken connection. Safe to call more than once.
	abort()
	// orderly ends it after both directions ended in order.
	orderly()
}

// tcpSide is an application's connection, or a plaintext one to a peer.
type tcpSide struct {
	*inpod.Conn
	account *account // of the pod that answers for what waits to be written here
}

func (t tcpSide) abort() { _ = t.Reset() }
func (t tcpSide) orderly() {
	_ = t.Orderly()
	_ = t.Close()
}

// streamSide is one stream of a tunnel.
type streamSide struct{ *hbone.Stream }

// abort says what RFC 9113 section 8.5 wants said of a broken TCP connection.
func (s streamSide) abort()   { s.Reset(hbone.CodeConnect) }
func (s streamSide) orderly() {}

// countStreams has streams count what they carry.
func countStreams(client, server side, m *moved) {
	if s, ok := client.(streamSide); ok {
		s.Count(&m.down, &m.up)
	}
	if s, ok := server.(streamSide); ok {
		s.Count(&m.up, &m.down)
	}
}

// conclude ends both sides in order where both directions ended so; else it says how they broke.
func conclude(client, server side, up, down error) error {
	switch {
	case up != nil:
		return broken(up)
	case down != nil:
		return broken(down)
	}
	client.orderly()
	server.orderly()
	return nil
}

// copyUntilEnd copies until src ends in order, then ends dst's direction too. What breaks one direction breaks
// both sides, which wakes the other direction.
func copyUntilEnd(dst, src side, n *atomic.Uint64) error {
	err := copyBytes(dst, src, n)
	if err == nil {
		err = dst.CloseWrite()
	}
	if err != nil {
		src.abort()
		dst.abort()
	}
	return err
}

// copyBytes copies to src's end of file and counts as it goes. Between two TCP connections bytes stay in the kernel.
func copyBytes(dst, src side, n *atomic.Uint64) error {
	d, dstTCP := dst.(tcpSide)
	s, srcTCP := src.(tcpSide)
	switch {
	case dstTCP && srcTCP:
		return splice(d, s, n)
	case srcTCP: // into a stream, which counts
		_, err := dst.(io.ReaderFrom).ReadFrom(s.Conn)
		return err
	default:
		_, err := src.(io.WriterTo).WriteTo(d.Conn)
		return err
	}
}
