// SPDX-License-Identifier: Apache-2.0

package netns

import (
	"errors"
	"fmt"
	"net"
	"syscall"
	"testing"
	"time"

	"github.com/warren-mesh/warren/tests/testutil"
)

// TestDrain ends ztunnel with SIGTERM: live connections last until they end or the drain deadline, and then end with
// a reset; what comes meanwhile waits for the next ztunnel.
func TestDrain(t *testing.T) {
	testutil.Privileged(t)
	s := newSpine(t, Options{ZtunnelFlags: []string{"--drain", "3s"}})
	ztunnel := s.Node("b").System.Ztunnel
	kept := openEcho(t, s.client, "tcp4", "far:80")
	defer kept.Close()

	stopped := make(chan error, 1)
	began := time.Now()
	go func() { stopped <- ztunnel.Stop(20 * time.Second) }()
	for i := 0; time.Since(began) < 2*time.Second; i++ {
		if err := ping(kept, fmt.Sprint("while draining ", i)); err != nil {
			t.Fatalf("the live connection %v into the drain: %v", time.Since(began).Round(time.Millisecond), err)
		}
	}
	waiting := make(chan error, 1)
	go func() {
		_, _, err := talk(t, s.client, "tcp6", "far:80", "came-while-nobody-served")
		waiting <- err
	}()
	if err := ending(kept, 15*time.Second); !errors.Is(err, syscall.ECONNRESET) {
		t.Errorf("the connection that outlived the deadline ended with %v, want a reset", err)
	}
	if took := time.Since(began); took < 3*time.Second {
		t.Errorf("it was ended after %v, before the deadline of 3 s", took)
	}
	if err := <-stopped; err != nil {
		t.Fatalf("stop ztunnel: %v", err)
	}
	if err := ztunnel.Start(); err != nil {
		t.Fatal(err)
	}
	if err := <-waiting; err != nil {
		t.Errorf("the connection that came during the drain: %v", err)
	}
}

// TestDrainEndsWithTheLastConnection shows that a drain takes no longer than what it waits for.
func TestDrainEndsWithTheLastConnection(t *testing.T) {
	testutil.Privileged(t)
	s := newSpine(t, Options{ZtunnelFlags: []string{"--drain", "60s"}})
	live := []*net.TCPConn{openEcho(t, s.client, "tcp4", "far:80"), openEcho(t, s.client, "tcp6", "far:80")}
	stopped := make(chan error, 1)
	go func() { stopped <- s.Node("b").System.Ztunnel.Stop(40 * time.Second) }()
	for i, c := range live {
		if err := ping(c, fmt.Sprint("last words ", i)); err != nil {
			t.Fatal(err)
		}
		if err := c.CloseWrite(); err != nil {
			t.Fatal(err)
		}
		if err := ending(c, 10*time.Second); err != nil {
			t.Errorf("a connection that ended while draining saw %v, want its peer's end", err)
		}
	}
	if err := <-stopped; err != nil {
		t.Errorf("ztunnel did not end once its last connection had: %v", err)
	}
}
