// SPDX-License-Identifier: Apache-2.0

package broker

import (
	"os"
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
