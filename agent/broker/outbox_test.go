// SPDX-License-Identifier: Apache-2.0

package broker

import (
	"context"
	"net"
	"os"
	"path/filepath"
	"testing"

	"golang.org/x/sys/unix"

	wire "github.com/warren-mesh/warren/mesh/broker"
)

// The loop learns of a connection's end after it: what it still queues must not stay open.
func TestOutboxThatEndedKeepsNoDescriptor(t *testing.T) {
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	o := newOutbox(nil)
	if err := o.tellFD(wire.TypeListener, wire.Empty{}, int(w.Fd())); err != nil {
		t.Fatal(err)
	}
	o.drop() // as run does at its end
	if err := o.tellFD(wire.TypeListener, wire.Empty{}, int(w.Fd())); err != nil {
		t.Fatal(err)
	}
	w.Close()
	p := []unix.PollFd{{Fd: int32(r.Fd()), Events: unix.POLLIN}}
	if _, err := unix.Poll(p, 0); err != nil {
		t.Fatal(err)
	}
	if p[0].Revents&unix.POLLHUP == 0 {
		t.Error("a copy of the descriptor is still open")
	}
}

// A node of thousands of pods says more at once than a peer has read: all of it comes, in order.
func TestOutboxHoldsAWholeNode(t *testing.T) {
	o, peer := outboxTo(t)
	const pods = 4096
	for i := range uint64(4 * pods) {
		o.tell(wire.TypeStats, wire.Stats{ID: i})
	}
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- o.run(ctx) }()
	for i := range uint64(4 * pods) {
		m, _, err := peer.Recv()
		must(t, err)
		var s wire.Stats
		if must(t, m.Into(&s)); s.ID != i {
			t.Fatalf("message %d in place of %d", s.ID, i)
		}
	}
	cancel()
	must(t, <-done)
}

func TestOutboxIsBounded(t *testing.T) {
	o, peer := outboxTo(t)
	for range outboxMost + 1 {
		o.tell(wire.TypeStats, wire.Stats{})
	}
	if _, _, err := peer.Recv(); err == nil {
		t.Error("the connection goes on")
	}
	if len(o.queue) != outboxMost {
		t.Errorf("%d messages are kept", len(o.queue))
	}
}

// outboxTo returns an outbox that does not run yet, and who it is for.
func outboxTo(t *testing.T) (*outbox, *wire.Conn) {
	path := filepath.Join(t.TempDir(), "s.sock")
	l, err := wire.Listen(path)
	must(t, err)
	defer l.Close()
	c, err := net.Dial("unixpacket", path)
	must(t, err)
	uc, err := l.AcceptUnix()
	must(t, err)
	o, peer := newOutbox(wire.NewConn(c.(*net.UnixConn))), wire.NewConn(uc)
	t.Cleanup(func() { o.conn.Close(); peer.Close() })
	return o, peer
}
