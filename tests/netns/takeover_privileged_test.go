// SPDX-License-Identifier: Apache-2.0

package netns

import (
	"fmt"
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/warren-mesh/warren/tests/testutil"
)

// TestTakeOver is the roll of a ztunnel while control is away: the new one is not ready, and accepts nothing, until it has
// the certificates; so the old one goes on, and no new connection fails at any time.
func TestTakeOver(t *testing.T) {
	testutil.Privileged(t)
	s := newSpine(t, Options{})
	if err := s.Control().Kill(); err != nil {
		t.Fatal(err)
	}
	old := s.Node("a").System.Ztunnel
	next, ready := second(t, s.Node("a"))
	until(t, s, "the new ztunnel waits for its certificates alone", func() bool {
		return ready() == "not ready, pending: certificates"
	})
	for range 100 { // of which the new one would have had half
		carried(t, s)
	}
	if err := s.Control().Start(); err != nil {
		t.Fatal(err)
	}
	until(t, s, "the new ztunnel is ready", func() bool { return ready() == "ready" })
	if log := next.Output(); !strings.Contains(log, "certificates are here") {
		t.Errorf("the new ztunnel does not say that it has its certificates; its log: %s", lastLines(log, 5))
	}
	stopped := make(chan error, 1)
	go func() { stopped <- old.Stop(40 * time.Second) }()
	until(t, s, "the old ztunnel has ended", func() bool { return len(stopped) > 0 })
	if err := <-stopped; err != nil {
		t.Errorf("stop the old ztunnel: %v", err)
	}
	for range 20 {
		carried(t, s)
	}
}

// second starts another ztunnel beside a node's, as a DaemonSet's surge does, and returns what its readiness page says.
func second(t *testing.T, n *Node) (p *Process, ready func() string) {
	t.Helper()
	pod := n.System.Ztunnel.Pod
	flags := append(slices.Clone(n.System.Ztunnel.args), "--admin-address", "localhost:15100", "--metrics-address", ":15120", "--ready-address", ":15121")
	p, err := pod.newProcess("warren-ztunnel", "ztunnel-2", ztunnelPrivileges, flags...)
	if err != nil {
		t.Fatal(err)
	}
	p.Log += "-2"
	if err := p.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = p.Kill() })
	return p, func() string {
		body, status, err := pod.Get("http://localhost:15121/healthz/ready")
		if err != nil || status != http.StatusOK && body == "" {
			return fmt.Sprint(status, " ", err)
		}
		return strings.TrimSpace(body)
	}
}

// carried opens a connection to each server, one of which is on the client's own node.
func carried(t *testing.T, s *spine) {
	t.Helper()
	for _, to := range []string{"near:80", "far:80"} {
		if _, _, err := talk(t, s.client, "tcp4", to, "x"); err != nil {
			t.Fatalf("a new connection to %s: %v", to, err)
		}
	}
}

// until opens connections, none of which may fail, until ok holds.
func until(t *testing.T, s *spine, what string, ok func() bool) {
	t.Helper()
	opened := 0
	for began := time.Now(); !ok(); opened++ {
		if time.Since(began) > 40*time.Second {
			t.Fatalf("waited in vain: %s", what)
		}
		carried(t, s)
	}
	t.Logf("%s, after %d connections to each server", what, opened)
}
