// SPDX-License-Identifier: Apache-2.0

package proxy

import (
	"bytes"
	"crypto/rand"
	"io"
	"net"
	"net/netip"
	"runtime"
	"slices"
	"sync/atomic"
	"testing"
	"time"

	"github.com/warren-mesh/warren/ztunnel/hbone"
	"github.com/warren-mesh/warren/ztunnel/inpod"
)

// tcpPair are the two ends of a connection.
func tcpPair(t *testing.T) (dialled, accepted *net.TCPConn) {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	c, err := net.Dial("tcp", l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	a, err := l.Accept()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close(); a.Close() })
	for _, c := range []net.Conn{c, a} {
		_ = c.SetDeadline(time.Now().Add(20 * time.Second))
	}
	return c.(*net.TCPConn), a.(*net.TCPConn)
}

func sideOf(t *testing.T, c *net.TCPConn) tcpSide {
	t.Helper()
	conn, err := inpod.NewConn(c, false, netip.AddrPort{}, netip.AddrPort{})
	if err != nil {
		t.Fatal(err)
	}
	return tcpSide{conn, &account{budget: hbone.NewBudget(podBudget)}}
}

// TestPiecesThatAreTakenInPart: a socket that is nearly full takes some of a piece, and the rest later. Pieces are of
// every kind: copied, moved by a pipe, and one after the other.
func TestPiecesThatAreTakenInPart(t *testing.T) {
	for _, size := range []int{1000, 3000, 7000, copyMost - 1, copyMost, copyMost + 1, 3 * copyMost} {
		client, from := tcpPair(t)
		to, server := tcpPair(t)
		_ = to.SetWriteBuffer(40 << 10) // not less: one segment would take each piece whole
		var n atomic.Uint64
		done := make(chan error, 1)
		go func() {
			err := splice(sideOf(t, to), sideOf(t, from), &n)
			_ = to.CloseWrite()
			done <- err
		}()
		sent := make([]byte, 1<<20/size*size)
		_, _ = rand.Read(sent)
		go func() {
			for p := range slices.Chunk(sent, size) {
				_, _ = client.Write(p)
				for before := time.Now(); n.Load() < uint64(len(sent)) && time.Since(before) < 200*time.Microsecond; { // pieces come one by one
					runtime.Gosched()
				}
			}
			_ = client.CloseWrite()
		}()
		for before := uint64(1); n.Load() != before; time.Sleep(20 * time.Millisecond) { // until nothing more goes
			before = n.Load()
		}
		got, err := io.ReadAll(server)
		if err != nil || !bytes.Equal(got, sent) {
			t.Errorf("pieces of %d bytes: got %d bytes, %v; want the %d sent", size, len(got), err, len(sent))
		}
		if err := <-done; err != nil || n.Load() != uint64(len(sent)) {
			t.Errorf("pieces of %d bytes: %v, counted %d of %d", size, err, n.Load(), len(sent))
		}
	}
}
