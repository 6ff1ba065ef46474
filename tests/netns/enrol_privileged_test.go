// SPDX-License-Identifier: Apache-2.0

package netns

import (
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"

	"github.com/warren-mesh/warren/tests/testutil"
)

// TestUnenrol takes a namespace out of the mesh: new connections go direct at once, the tunnelled one lives to its end,
// and after that nothing of the mesh is left at the pods.
func TestUnenrol(t *testing.T) {
	testutil.Privileged(t)
	s := newSpine(t, Options{})
	pins := map[string]int{}
	for _, n := range s.Nodes() {
		pins[n.Name] = len(n.Pins())
	}
	old := openEcho(t, s.client, "tcp4", "far:80")
	s.Unenrol("app")
	for _, p := range []*Pod{s.client, s.near, s.far} {
		s.WaitCaptured(p, "")
	}
	wire := s.Capture()
	if _, _, err := talk(t, s.client, "tcp4", "far:80", "plain-now"); err != nil {
		t.Errorf("a new connection: %v", err)
	}
	wire.Stop()
	if found := wire.Contains([]byte("plain-now")); len(found) == 0 {
		t.Errorf("the new connection was not direct: %v", wire.Flows())
	}
	if err := ping(old, "still tunnelled"); err != nil {
		t.Errorf("the old connection: %v", err)
	}
	if err := old.CloseWrite(); err != nil {
		t.Error(err)
	}
	if err := ending(old, 5*time.Second); err != nil {
		t.Errorf("the old connection ended with %v, want EOF", err)
	}
	old.Close()
	for _, n := range s.Nodes() {
		testutil.Eventually(t, 30*time.Second, "the pods' kernel objects are gone from node "+n.Name, func() bool {
			left := n.Pins()
			for path := range left {
				if strings.Contains(path, "/pods/") {
					return false
				}
			}
			return len(left) < pins[n.Name]
		})
	}
	// And back again.
	s.Enrol("app")
	for _, p := range []*Pod{s.client, s.near, s.far} {
		s.WaitCaptured(p, "true")
	}
	if _, _, err := talk(t, s.client, "tcp6", "far:80", "x"); err != nil {
		t.Errorf("enrolled again: %v", err)
	}
}

// TestEnrolRunning enrols pods that run and talk already: the established connection is left alone, new ones are tunnelled.
func TestEnrolRunning(t *testing.T) {
	testutil.Privileged(t)
	m := New(t, Options{})
	client := m.Node("a").Pod("client", In("app"), ServiceAccount("client"))
	server := m.Node("b").Pod("server", In("app"), ServiceAccount("server"))
	echo(t, server, ":8080")
	m.Up()
	address := server.Addr("tcp4", 8080).String()
	old := openEcho(t, client, "tcp4", address)
	defer old.Close()
	m.Enrol("app")
	m.WaitCaptured(client, "true")
	m.WaitCaptured(server, "true")
	if err := ping(old, "established before"); err != nil {
		t.Errorf("the connection from before: %v", err)
	}
	// The client's node may hear of the server's capture a little later; until then the connection is as before.
	testutil.Eventually(t, 5*time.Second, "a new connection goes through the tunnel", func() bool {
		wire := m.Capture()
		defer wire.Stop()
		if _, _, err := talk(t, client, "tcp4", address, "marker"); err != nil {
			t.Fatal(err)
		}
		wire.Stop()
		return len(wire.Contains([]byte("marker"))) == 0
	})
}

// TestNewPods starts pods in an enrolled namespace while the mesh runs, and deletes them: what they had in the kernel goes.
func TestNewPods(t *testing.T) {
	testutil.Privileged(t)
	s := newSpine(t, Options{})
	before := len(s.Node("b").Pins())
	late := s.Node("b").Pod("late", In("app"), ServiceAccount("late"))
	echo(t, late, ":8080")
	s.WaitCaptured(late, "true")
	for _, network := range []string{"tcp4", "tcp6"} {
		if _, _, err := talk(t, s.client, network, late.Addr(network, 8080).String(), "x"); err != nil {
			t.Error(err)
		}
	}
	spoken := func(word string) bool {
		body, _, err := s.Node("b").System.Agent.Pod.Get("http://localhost:15000/debug/pods")
		return err == nil && strings.Contains(body, word)
	}
	with := len(s.Node("b").Pins())
	s.Remove("Pod", "app", "late") // as a deletion by force does, long before the kubelet ends the processes
	testutil.Eventually(t, 10*time.Second, "the agent knows that the object is gone", func() bool { return spoken("deleted, and still running") })
	if got := len(s.Node("b").Pins()); got != with {
		t.Errorf("%d pins while the pod runs on without its object, %d before", got, with)
	}
	agent := s.Node("b").System.Agent
	if err := agent.Kill(); err != nil {
		t.Fatal(err)
	}
	if err := agent.Start(); err != nil {
		t.Fatal(err)
	}
	readyAgain(t, s, 20*time.Second)
	testutil.Eventually(t, 10*time.Second, "the next agent knows the pod", func() bool { return spoken("deleted, and still running") })
	s.WaitCaptured(s.far, "true")
	if got := len(s.Node("b").Pins()); got != with {
		t.Errorf("%d pins after the agent's restart, %d before", got, with)
	}
	late.Delete()
	testutil.Eventually(t, 10*time.Second, "the deleted pod's kernel objects are gone", func() bool {
		return len(s.Node("b").Pins()) == before
	})
	testutil.Eventually(t, 10*time.Second, "the agent speaks of it no more", func() bool { return !spoken("late") })
}

// TestWrongWordAcrossRestarts has everything but the brokers start while a namespace's enrolment can't be read: its pods
// stay in the mesh, nothing hangs, and what is corrected counts.
func TestWrongWordAcrossRestarts(t *testing.T) {
	testutil.Privileged(t)
	s := newSpine(t, Options{})
	says := func(word string) {
		s.Namespace("app", func(n *corev1.Namespace) { n.Labels["warren.dev/mesh"] = word })
	}
	says("on")
	restarted := []*Process{s.Control()}
	for _, n := range s.Nodes() {
		restarted = append(restarted, n.System.Agent, n.System.Ztunnel)
	}
	for _, p := range restarted {
		if err := p.Kill(); err != nil {
			t.Fatal(err)
		}
	}
	for _, p := range restarted {
		if err := p.Start(); err != nil {
			t.Fatal(err)
		}
	}
	readyAgain(t, s, 20*time.Second)
	wire := s.Capture()
	for _, network := range []string{"tcp4", "tcp6"} {
		if _, _, err := talk(t, s.client, network, "far:80", "still-tunnelled"); err != nil {
			t.Error(err)
		}
	}
	wire.Stop()
	if found := wire.Contains([]byte("still-tunnelled")); len(found) > 0 {
		t.Errorf("in plaintext: %v", found)
	}
	pods := []*Pod{s.client, s.near, s.far}
	for _, p := range pods {
		s.WaitCaptured(p, "true")
	}
	says("disabled")
	for _, p := range pods {
		s.WaitCaptured(p, "")
	}
}
