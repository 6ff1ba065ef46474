// SPDX-License-Identifier: Apache-2.0

package netns

import (
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"

	"github.com/warren-mesh/warren/tests/testutil"
)

// heldFor is how long the mesh waits for what it does not know yet before it refuses.
const heldFor = 5 * time.Second

// count serves a port and counts who gets through to the application.
func count(t *testing.T, p *Pod, port int) *atomic.Int32 {
	t.Helper()
	n := new(atomic.Int32)
	serve(t, p, fmt.Sprint(":", port), func(c *net.TCPConn) {
		n.Add(1)
		_, _ = io.Copy(c, c)
	})
	return n
}

// end is how a connection attempt ended: the error of dial, or of the first read after something was written.
func end(t *testing.T, p *Pod, address string, options ...DialOptions) (local string, took time.Duration, err error) {
	t.Helper()
	started := time.Now()
	c, err := p.Dial(t.Context(), "tcp", address, options...)
	if err != nil {
		return "", time.Since(started), err
	}
	defer c.Close()
	_ = c.SetDeadline(time.Now().Add(20 * time.Second))
	if _, err = c.Write([]byte("x")); err == nil {
		_, err = c.Read(make([]byte, 1))
	}
	return c.LocalAddr().String(), time.Since(started), err
}

// TestStrictRefusesPlaintext turns STRICT on for a namespace and for the mesh: a client outside the mesh is reset at
// once with the reason in log and metrics, one inside is served, and without it everyone is, as before.
func TestStrictRefusesPlaintext(t *testing.T) {
	testutil.Privileged(t)
	s := newSpine(t, Options{})
	outsider := s.Node("b").Pod("outsider")
	heard := count(t, s.near, 7000)
	address := s.near.Addr("tcp4", 7000).String()
	for _, level := range []struct{ name, namespace string }{{"namespace", "app"}, {"mesh", systemNamespace}} {
		t.Run(level.name, func(t *testing.T) {
			if _, _, err := end(t, outsider, address); err != nil {
				t.Fatalf("without STRICT: %v", err)
			}
			s.Strict(level.namespace)
			testutil.Eventually(t, told, "STRICT has arrived", func() bool {
				_, _, err := end(t, outsider, address)
				return isReset(err)
			})
			before := heard.Load()
			for _, network := range []string{"tcp4", "tcp6"} {
				a := witness(t, s.near.Node)
				local, took, err := end(t, outsider, s.near.Addr(network, 7000).String())
				if !isReset(err) || took > heldFor-time.Second {
					t.Errorf("%s: the outsider saw %v after %v, want a reset at once", network, err, took)
				}
				a.ended("destination", "STRICT_MTLS", by(local, outsider), "src.workload=outsider", "dst.workload=near", "bytes_sent=0", "bytes_recv=0")
			}
			if now := heard.Load(); now != before {
				t.Errorf("the application accepted %d connections", now-before)
			}
			if _, _, err := talk(t, s.client, "tcp4", s.near.Addr("tcp4", 8080).String(), "x"); err != nil {
				t.Errorf("a client of the mesh: %v", err)
			}
			s.Remove("PeerAuthentication", level.namespace, "default")
			testutil.Eventually(t, told, "STRICT is gone", func() bool {
				_, _, err := end(t, outsider, address)
				return err == nil
			})
		})
	}
}

// TestUnsureIsRefused holds what the mesh is not sure of for 5 s, unread, and then refuses it: each with its own word.
// All at once, because each takes that long.
func TestUnsureIsRefused(t *testing.T) {
	testutil.Privileged(t)
	s := newSpine(t, Options{})
	// An enrolled pod on a node where no agent publishes anything; its application listens.
	pending := s.Node("c").Pod("pending", In("app"), ServiceAccount("pending"))
	pendingHeard := count(t, pending, 7000)
	// Something that listens at an address of the cluster, and no object says what it is.
	ghost := s.Node("b").Pod("ghost")
	ghostHeard := count(t, ghost, 7000)
	s.Remove("Pod", ghost.Namespace, ghost.Name)
	// Whoever has a captured pod's address and sends plaintext from it.
	// It was captured before it ran: for 5 s after a running pod is captured, its peers may not have heard of it yet.
	victim := s.Node("a").Pod("victim", In("app"), ServiceAccount("victim"), NotReady(), Object(func(o *corev1.Pod) { o.Status.Phase = corev1.PodPending }))
	s.WaitCaptured(victim, "true")
	thief := s.Node("b").Pod("thief")
	for _, a := range []netip.Addr{victim.IPv4, victim.IPv6} {
		steal(t, thief, a)
	}
	farHeard := count(t, s.far, 7000)
	s.waitKnown(t, s.Node("a"), "ghost", false)
	s.waitKnown(t, s.Node("b"), "thief", true)

	a, b := witness(t, s.Node("a")), witness(t, s.Node("b"))
	type attempt struct {
		name, reporter, reason string
		heard                  *atomic.Int32
		at                     *evidence
		from                   *Pod // as the mesh sees it
		parts                  []string
		done                   chan func() (string, time.Duration, error)
	}
	var attempts []*attempt
	for _, network := range []string{"tcp4", "tcp6"} {
		to := func(p *Pod) string { return p.Addr(network, 7000).String() }
		attempts = append(attempts,
			&attempt{"an enrolled pod that is not captured " + network, "source", "DESTINATION_NOT_CAPTURED", pendingHeard, a,
				s.client, []string{"dst.workload=pending"}, start(t, s.client, to(pending))},
			&attempt{"an address that nobody knows " + network, "source", "DESTINATION_UNKNOWN", ghostHeard, a,
				s.client, []string{"dst.addr=" + to(ghost)}, start(t, s.client, to(ghost))},
			&attempt{"plaintext from a captured pod's address " + network, "destination", "PLAINTEXT_FROM_MESH", farHeard, b,
				victim, []string{"src.workload=victim"}, start(t, thief, to(s.far), DialOptions{Local: victim.Addr(network, 0).String()})},
		)
	}
	for _, tt := range attempts {
		t.Run(tt.name, func(t *testing.T) {
			local, took, err := (<-tt.done)()
			if !isReset(err) {
				t.Errorf("the client saw %v, want a reset", err)
			}
			if took < heldFor-time.Second || took > heldFor+5*time.Second {
				t.Errorf("refused after %v, want about %v", took, heldFor)
			}
			if n := tt.heard.Load(); n != 0 {
				t.Errorf("the application accepted %d connections", n)
			}
			tt.at.ended(tt.reporter, tt.reason, append(tt.parts, by(local, tt.from), "bytes_sent=0", "bytes_recv=0")...)
		})
	}
}

// start is end in the background.
func start(t *testing.T, p *Pod, address string, options ...DialOptions) chan func() (string, time.Duration, error) {
	done := make(chan func() (string, time.Duration, error), 1)
	go func() {
		local, took, err := end(t, p, address, options...)
		done <- func() (string, time.Duration, error) { return local, took, err }
	}()
	return done
}

// steal lets a pod have an address that is another's on another node: its own node routes it there from now on.
func steal(t *testing.T, thief *Pod, a netip.Addr) {
	t.Helper()
	in, err := thief.sandbox.links()
	if err != nil {
		t.Fatal(err)
	}
	defer in.Close()
	out, err := thief.Node.sandbox.links()
	if err != nil {
		t.Fatal(err)
	}
	defer out.Close()
	eth0, err := in.LinkByName("eth0")
	if err == nil {
		err = in.address(eth0, host(a))
	}
	if err != nil {
		t.Fatal(err)
	}
	veth, err := out.LinkByName(thief.veth)
	if err == nil {
		err = out.route(veth, host(a), netip.Addr{})
	}
	if err != nil {
		t.Fatal(err)
	}
}

// TestUnsureIsResolved is the same with an answer that comes within those 5 s: the connection goes on as it should.
func TestUnsureIsResolved(t *testing.T) {
	testutil.Privileged(t)
	s := newSpine(t, Options{})
	pending := s.Node("c").Pod("pending", In("app"), ServiceAccount("pending"))
	server := newImpostor(t, pending) // the test plays the ztunnel there
	server.cert.Store(meshSigner(t, s.Mesh).Certificate(t, account("app", "pending").String(), nil))
	plain := count(t, pending, 8080)
	ghost := s.Node("b").Pod("ghost")
	echo(t, ghost, ":8080")
	s.mu.Lock()
	object := s.objects[key{"Pod", ghost.Namespace, ghost.Name}].typed
	s.mu.Unlock()
	s.Remove("Pod", ghost.Namespace, ghost.Name)
	s.waitKnown(t, s.Node("a"), "ghost", false)

	for _, tt := range []struct {
		name, word string
		to         *Pod
		resolve    func(t *testing.T)
	}{
		{"its capture is published", "TUNNEL", pending, func(t *testing.T) { publishCaptured(t, pending) }},
		{"its object appears", "PASSTHROUGH_NOT_ENROLLED", ghost, func(*testing.T) {
			s.mu.Lock()
			defer s.mu.Unlock()
			s.put(object.(*corev1.Pod))
		}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			a := witness(t, s.Node("a"))
			done := make(chan error, 1)
			go func() {
				_, _, err := talk(t, s.client, "tcp4", tt.to.Addr("tcp4", 8080).String(), "held")
				done <- err
			}()
			s.waitHeld(t, s.client)
			tt.resolve(t)
			if err := <-done; err != nil {
				t.Errorf("got %v, want it carried", err)
			}
			a.ended("source", tt.word, "src.workload=client", "dst.workload="+tt.to.Name)
		})
	}
	if n := plain.Load(); n != 0 {
		t.Errorf("%d connections came in plaintext", n)
	}
}

// TestMeshPortsOfOthersAreRefused dials the ports of the mesh at a captured pod from outside the mesh.
func TestMeshPortsOfOthersAreRefused(t *testing.T) {
	testutil.Privileged(t)
	s := newSpine(t, Options{})
	outsider := s.Node("a").Pod("outsider")
	for _, network := range []string{"tcp4", "tcp6"} {
		for _, port := range []uint16{15001, 15006, 15053, 61000, 61031, 61063} {
			b := witness(t, s.far.Node)
			if _, _, err := end(t, outsider, s.far.Addr(network, port).String()); !errors.Is(err, syscall.ECONNREFUSED) {
				t.Errorf("%s port %d: %v, want connection refused", network, port, err)
			}
			if n := b.grown("RESERVED_PORT"); n == 0 {
				t.Errorf("%s port %d: not counted as RESERVED_PORT", network, port)
			}
			if lines := b.lines(); len(lines) > 0 {
				t.Errorf("%s port %d: ztunnel was reached: %v", network, port, lines)
			}
		}
	}
}
