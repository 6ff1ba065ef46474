// SPDX-License-Identifier: Apache-2.0

package broker

import (
	"bytes"
	"os"
	"path/filepath"
	"strings"
	"testing"

	wire "github.com/warren-mesh/warren/mesh/broker"
	"github.com/warren-mesh/warren/tests/testutil"
)

// An agent lets go of a pod without an object by this word alone: it must come for every pod that can't be there, and for no other.
func TestPodWithoutCgroupIsGone(t *testing.T) {
	testutil.Privileged(t)
	b := idleBroker(t, &fullDatapath{}, &bytes.Buffer{})
	root := t.TempDir()
	host, err := os.Open("/proc/self/ns/net")
	must(t, err)
	given, err := os.Open("/proc/self/ns/net")
	must(t, err)
	ns, err := openNamespace(host)
	must(t, err)
	t.Cleanup(ns.close)
	b.finder = &finder{cgroups: cgroups{root: root, pods: root}, proc: "/proc", host: ns}
	a := &agentConn{outbox: newOutbox(nil), b: b, sent: map[string]bool{}}
	b.agents[a] = true
	must(t, os.MkdirAll(filepath.Join(root, "podempty"), 0o755))

	last := func() (s wire.State) {
		t.Helper()
		if len(a.queue) == 0 {
			t.Fatal("the agent is told nothing")
		}
		s = a.queue[len(a.queue)-1].body.(wire.State)
		a.queue = nil
		return s
	}
	for _, tt := range []struct {
		c     wire.Capture
		given *os.File
		gone  bool
		text  string
	}{
		{wire.Capture{UID: "none", Addresses: addrs("10.0.0.1")}, nil, true, "find cgroup of pod none: there is none"},
		{wire.Capture{UID: "handed", Addresses: addrs("10.0.0.1")}, given, true, "host's network namespace"},
		{wire.Capture{UID: "empty", Addresses: addrs("10.0.0.1")}, nil, false, "no process in its cgroup yet"},
		{wire.Capture{UID: "refused", Addresses: addrs("127.0.0.1")}, nil, true, "the pod's own"},
		{wire.Capture{UID: "empty", Addresses: addrs("127.0.0.1")}, nil, false, "the pod's own"},
	} {
		b.updateCapture(a, tt.c, tt.given)
		if s := last(); s.Gone != tt.gone || s.Captured || s.UID != tt.c.UID || !strings.Contains(s.Reason, tt.text) {
			t.Errorf("%s: %+v", tt.c.UID, s)
		}
	}
	// Who asks again, as an agent that starts, hears it again.
	b.updateCapture(a, wire.Capture{UID: "none", Addresses: addrs("10.0.0.1")}, nil)
	if s := last(); !s.Gone {
		t.Errorf("asked again: %+v", s)
	}
}
