// SPDX-License-Identifier: Apache-2.0

package netns

import (
	"errors"
	"fmt"
	"net"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/warren-mesh/warren/tests/testutil"
)

// outage is how long agent and control stay dead: a minute, or less with WARREN_SCALE.
func outage() time.Duration { return time.Duration(scale(60)) * time.Second }

// TestWithoutAgentAndControl kills both on all nodes: what runs goes on, and new connections work.
func TestWithoutAgentAndControl(t *testing.T) {
	testutil.Privileged(t)
	t.Parallel() // it waits most of its time
	s := newSpine(t, Options{})
	old := openEcho(t, s.client, "tcp4", "far:80")
	defer old.Close()
	dead := []*Process{s.Control()}
	for _, n := range s.Nodes() {
		dead = append(dead, n.System.Agent)
	}
	for _, p := range dead {
		if err := p.Kill(); err != nil {
			t.Fatal(err)
		}
	}
	opened := 0
	for end := time.Now().Add(outage()); time.Now().Before(end); opened++ {
		if err := ping(old, fmt.Sprint("ping ", opened)); err != nil {
			t.Fatalf("the old connection: %v", err)
		}
		for _, network := range []string{"tcp4", "tcp6"} {
			if _, _, err := talk(t, s.client, network, "far:80", "x"); err != nil {
				t.Fatalf("new connection %d: %v", opened, err)
			}
		}
		time.Sleep(20 * time.Millisecond) // a steady rate, not a race
	}
	for _, p := range dead {
		if err := p.Start(); err != nil {
			t.Fatal(err)
		}
	}
	// ztunnel looks for its agent again after at most 15 s.
	readyAgain(t, s, 20*time.Second)
	if err := ping(old, "after"); err != nil {
		t.Errorf("the old connection after the restart: %v", err)
	}
}

// readyAgain waits until nothing is pending.
func readyAgain(t *testing.T, s *spine, within time.Duration) {
	t.Helper()
	started := time.Now()
	for pending := s.Pending(); len(pending) > 0; pending = s.Pending() {
		if time.Since(started) > within {
			t.Fatalf("not ready again after %v:\n  %s", within, strings.Join(pending, "\n  "))
		}
		time.Sleep(10 * time.Millisecond)
	}
	t.Logf("everything is ready again after %v", time.Since(started).Round(time.Millisecond))
}

// TestAgentsAndBrokersRestart kills only the children: the supervisors bring them back, and no connection notices.
func TestAgentsAndBrokersRestart(t *testing.T) {
	testutil.Privileged(t)
	s := newSpine(t, Options{})
	old := openEcho(t, s.client, "tcp4", "far:80")
	defer old.Close()
	for _, n := range s.Nodes() {
		for _, p := range []*Process{n.System.Agent, n.System.Broker} {
			if _, err := p.KillChild(); err != nil {
				t.Fatal(err)
			}
			for i := range 20 {
				if err := ping(old, fmt.Sprint("ping ", i)); err != nil {
					t.Fatalf("the old connection after the end of %s: %v", p, err)
				}
				if _, _, err := talk(t, s.client, "tcp4", "far:80", "x"); err != nil {
					t.Fatalf("a new connection after the end of %s: %v", p, err)
				}
			}
		}
	}
	readyAgain(t, s, 10*time.Second)
}

// TestZtunnelDies kills a ztunnel: both applications see a reset within a second, never an EOF, and new connections
// wait in the backlog until the next one serves.
func TestZtunnelDies(t *testing.T) {
	testutil.Privileged(t)
	for _, victim := range []string{"a", "b"} {
		t.Run("on node "+victim, func(t *testing.T) {
			s := newSpine(t, Options{})
			server := make(chan error, 1)
			serve(t, s.far, ":7009", func(c *net.TCPConn) {
				_, _ = c.Write([]byte("x"))
				server <- ending(c, 5*time.Second)
			})
			c := dial(t, s.client, "tcp", s.far.Addr("tcp4", 7009).String(), 10*time.Second)
			defer c.Close()
			if _, err := c.Read(make([]byte, 1)); err != nil {
				t.Fatal(err)
			}
			wire := s.Capture()
			killed := time.Now()
			if _, err := s.Node(victim).System.Ztunnel.KillChild(); err != nil {
				t.Fatal(err)
			}
			client := make(chan error, 1)
			go func() { client <- ending(c, 5*time.Second) }()
			for range 2 {
				select {
				case err := <-client:
					if !errors.Is(err, syscall.ECONNRESET) {
						t.Errorf("the client saw %v, want a reset", err)
					}
				case err := <-server:
					if !errors.Is(err, syscall.ECONNRESET) {
						t.Errorf("the server saw %v, want a reset", err)
					}
				}
				if took := time.Since(killed); took > time.Second {
					t.Errorf("an end was told after %v, want within 1 s", took)
				}
			}
			const marker = "sent-while-it-restarts"
			if _, _, err := talk(t, s.client, "tcp4", "far:80", marker); err != nil {
				t.Errorf("a new connection: %v", err)
			}
			t.Logf("new connections work %v after the kill", time.Since(killed).Round(time.Millisecond))
			wire.Stop()
			if found := wire.Contains([]byte(marker)); len(found) > 0 {
				t.Errorf("plaintext on the wire: %v", found)
			}
		})
	}
}
