// SPDX-License-Identifier: Apache-2.0

package netns

import (
	"bytes"
	"errors"
	"fmt"
	"net"
	"os/exec"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/warren-mesh/warren/tests/packets"
	"github.com/warren-mesh/warren/tests/testutil"
)

// TestSameNode puts every load between two pods of one node. Their veths see a witness for each family and nothing in it.
func TestSameNode(t *testing.T) {
	testutil.Privileged(t)
	s := newSpine(t, Options{})
	j := direct(s.client, s.near)
	serving := ztunnels(s)
	veths, err := packets.In(s.client.Node.HostNetns())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(veths.Stop)
	for _, network := range []string{"tcp4", "tcp6"} {
		a := witness(t, s.client.Node)
		local, seen, err := talk(t, s.client, network, s.near.Addr(network, 8080).String(), "in-plaintext-if-anywhere")
		if err != nil || seen != local {
			t.Fatalf("%s: the server saw %s, want %s; %v", network, seen, local, err)
		}
		for _, end := range []string{"source", "destination"} {
			line := a.ended(end, "SAME_NODE", "src.addr="+local, fmt.Sprintf("dst.addr=%s", s.near.Addr(network, 8080)),
				"src.identity="+account("app", "client").String(), "dst.identity="+account("app", "near").String())
			if strings.Contains(line, "dst.hbone_addr") {
				t.Errorf("the log tells of a tunnel: %s", line)
			}
		}
	}
	t.Run("short connections", func(t *testing.T) { shortConnections(t, j, scale(5000)) })
	t.Run("both directions at once", func(t *testing.T) { bothDirections(t, j, int64(scale(1<<30))) })
	t.Run("half-close by the client first", func(t *testing.T) { halfCloseClient(t, j) })
	t.Run("half-close by the server first", func(t *testing.T) { halfCloseServer(t, j) })
	t.Run("reset by the client", func(t *testing.T) { resetByClient(t, j) })
	t.Run("reset by the server", func(t *testing.T) { resetByServer(t, j) })
	t.Run("a slow reader beside fast ones", func(t *testing.T) { slowReader(t, j) })
	time.Sleep(1500 * time.Millisecond) // for a keepalive to be seen
	veths.Stop()
	t.Run("the veths", func(t *testing.T) { checkVeths(t, veths, s) })
	t.Run("sealed ztunnels served it all", func(t *testing.T) { checkSealed(t, s, serving) })
}

// checkVeths fails unless the two pods have one connection for each family, to the HBONE port, in which no byte went.
func checkVeths(t *testing.T, veths *packets.Capture, s *spine) {
	if err := veths.Err(); err != nil {
		t.Error(err)
	}
	if found := veths.Contains([]byte("in-plaintext-if-anywhere")); len(found) > 0 {
		t.Errorf("what the applications said is on the veths: %v", found)
	}
	for _, network := range []string{"tcp4", "tcp6"} {
		flows := veths.Between(s.client.Addr(network, 0).Addr(), s.near.Addr(network, 0).Addr())
		if len(flows) != 2 {
			t.Errorf("%s: want one witness, both its directions; got %v", network, flows)
		}
		for _, f := range flows {
			if f.Source.Port() != hbonePort && f.Destination.Port() != hbonePort {
				t.Errorf("a connection beside the witness: %s", f)
			}
			// A keepalive repeats a byte that never was.
			if b := veths.Bytes(f); len(b) > 1 {
				t.Errorf("the witness %s carries %d bytes: %q", f, len(b), b[:min(len(b), 64)])
			}
		}
	}
}

// TestSameNodeIsJudged wants of policy between pods of one node what it does between nodes.
func TestSameNodeIsJudged(t *testing.T) {
	testutil.Privileged(t)
	s := newSpine(t, Options{})
	other := s.Node("a").Pod("other", In("app"), ServiceAccount("other"))
	s.WaitCaptured(other, "true")
	try := func(p *Pod) error {
		_, _, err := talk(t, p, "tcp4", s.near.Addr("tcp4", 8080).String(), "x")
		return err
	}
	live := openEcho(t, other, "tcp4", s.near.Addr("tcp4", 8080).String())
	defer live.Close()
	s.Strict("app")
	outsider := s.Node("a").Pod("outsider")
	testutil.Eventually(t, told, "an outsider of the node is refused under STRICT", func() bool { return isReset(try(outsider)) })
	for _, p := range []*Pod{s.client, other} {
		if err := try(p); err != nil {
			t.Errorf("%s under STRICT: %v", p, err)
		}
	}
	if err := ping(live, "goes on under STRICT"); err != nil {
		t.Error(err)
	}
	a := witness(t, s.client.Node)
	s.Apply("apiVersion: security.istio.io/v1\nkind: AuthorizationPolicy\nmetadata: {name: guard, namespace: app}\n" +
		"spec: {selector: {matchLabels: {app: near}}, rules: [{from: [{source: {serviceAccounts: [client]}}]}]}\n")
	if err := ending(live, 10*time.Second); !errors.Is(err, syscall.ECONNRESET) {
		t.Errorf("the connection that policy no longer allows ended with %v, want a reset", err)
	}
	for _, end := range []string{"source", "destination"} {
		a.ended(end, "POLICY_CHANGED", "src.workload=other")
	}
	if err := try(other); !isReset(err) {
		t.Errorf("whom the policy does not name: %v, want a reset", err)
	}
	a.ended("source", "PEER_REFUSED", "src.workload=other")
	a.ended("destination", "POLICY_NO_ALLOW", "src.workload=other", "src.identity="+account("app", "other").String())
	if err := try(s.client); err != nil {
		t.Errorf("whom the policy names: %v", err)
	}
}

// TestSameNodeTLS: the mesh may want TLS between pods of one node as well. What lives goes on as it was.
func TestSameNodeTLS(t *testing.T) {
	testutil.Privileged(t)
	s := newSpine(t, Options{})
	live := openEcho(t, s.client, "tcp4", s.near.Addr("tcp4", 8080).String())
	defer live.Close()
	s.Apply("apiVersion: warren.dev/v1alpha1\nkind: MeshConfig\nmetadata: {name: default}\nspec: {sameNodeTLS: true}\n")
	encrypted := fmt.Sprintf("dst.hbone_addr=%s", s.near.Addr("tcp4", 8080))
	a := witness(t, s.client.Node)
	testutil.Eventually(t, told, "a connection goes by a tunnel", func() bool {
		_, _, err := talk(t, s.client, "tcp4", s.near.Addr("tcp4", 8080).String(), "x")
		return err == nil && len(a.lines("direction=outbound", "reason=SAME_NODE", encrypted)) > 0
	})
	veths, err := packets.In(s.client.Node.HostNetns())
	if err != nil {
		t.Fatal(err)
	}
	defer veths.Stop()
	if _, _, err := talk(t, s.client, "tcp6", s.near.Addr("tcp6", 8080).String(), "in-plaintext-if-anywhere"); err != nil {
		t.Fatal(err)
	}
	a.ended("destination", "TUNNEL", fmt.Sprintf("dst.hbone_addr=%s", s.near.Addr("tcp6", 8080)))
	veths.Stop()
	if found := veths.Contains([]byte("in-plaintext-if-anywhere")); len(found) > 0 {
		t.Errorf("what the applications said is on the veths: %v", found)
	}
	records := 0
	for _, f := range veths.Between(s.client.IPv6, s.near.IPv6) {
		n, err := packets.TLSRecords(veths.Bytes(f))
		if records += n; err != nil {
			t.Errorf("%s: %v", f, err)
		}
	}
	if records == 0 {
		t.Errorf("no TLS on the veths: %v", veths.Flows())
	}
	if err := ping(live, "goes on without TLS"); err != nil {
		t.Error(err)
	}
}

// rules puts a table into the node's nftables, as a CNI plugin does for a NetworkPolicy; an empty one takes it away.
func rules(t *testing.T, n *Node, chain string) {
	t.Helper()
	cmd := exec.Command("nft", "-f", "-")
	text := "table inet cni\ndelete table inet cni\n"
	if chain != "" {
		text += "table inet cni {\nchain forward {\ntype filter hook forward priority filter\n" + chain + "\n}\n}\n"
	}
	cmd.Stdin = strings.NewReader(text)
	var out bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &out
	if err := n.here().start(cmd); err != nil {
		t.Fatal(err)
	}
	if err := cmd.Wait(); err != nil {
		t.Fatalf("nft: %v: %s\n%s", err, out.String(), text)
	}
}

// TestNetworkPolicyHoldsOnTheSameNode: what the pods' own network does not let through goes nowhere, though the bytes
// would never have crossed it.
func TestNetworkPolicyHoldsOnTheSameNode(t *testing.T) {
	testutil.Privileged(t)
	t.Parallel() // it waits most of its time
	s := newSpine(t, Options{})
	to := func(network string) string { return s.near.Addr(network, 8080).String() }
	t.Run("refused before", func(t *testing.T) {
		rules(t, s.client.Node, "tcp dport 15008 reject with tcp reset")
		for _, network := range []string{"tcp4", "tcp6"} {
			a := witness(t, s.client.Node)
			if _, _, err := talk(t, s.client, network, to(network), "x"); !isReset(err) {
				t.Errorf("%s: %v, want a reset", network, err)
			}
			a.ended("source", "CONNECT_FAILURE", "src.workload=client")
		}
		rules(t, s.client.Node, "")
		for _, network := range []string{"tcp4", "tcp6"} {
			if _, _, err := talk(t, s.client, network, to(network), "x"); err != nil {
				t.Errorf("%s, allowed again: %v", network, err)
			}
		}
	})
	for _, drop := range []struct{ name, rule string }{
		{"silent from the client", "ip saddr %[1]s ip daddr %[2]s drop"}, {"silent from the server", "ip saddr %[2]s ip daddr %[1]s drop"},
	} {
		t.Run(drop.name, func(t *testing.T) {
			served := make(chan error, 1)
			l := serve(t, s.near, ":7010", func(c *net.TCPConn) {
				_, _ = c.Write([]byte("x"))
				served <- ending(c, 30*time.Second)
			})
			defer l.Close()
			c := dial(t, s.client, "tcp", s.near.Addr("tcp4", 7010).String(), 30*time.Second)
			defer c.Close()
			if _, err := c.Read(make([]byte, 1)); err != nil {
				t.Fatal(err)
			}
			other := openEcho(t, s.client, "tcp6", to("tcp6")) // of which the rule says nothing
			defer other.Close()
			a := witness(t, s.client.Node)
			rules(t, s.client.Node, fmt.Sprintf(drop.rule, s.client.IPv4, s.near.IPv4))
			defer rules(t, s.client.Node, "")
			began := time.Now()
			if err := ending(c, 20*time.Second); !errors.Is(err, syscall.ECONNRESET) {
				t.Errorf("the client's connection ended with %v, want a reset", err)
			}
			took := time.Since(began)
			t.Logf("closed after %v", took.Round(100*time.Millisecond))
			if took > 10*time.Second {
				t.Error("want at most 10 s")
			}
			if err := <-served; !errors.Is(err, syscall.ECONNRESET) {
				t.Errorf("the server's connection ended with %v, want a reset", err)
			}
			for _, end := range []string{"source", "destination"} {
				a.ended(end, "NETWORK_POLICY", "src.workload=client")
			}
			if err := ping(other, "the other family goes on"); err != nil {
				t.Error(err)
			}
			if _, _, err := talk(t, s.client, "tcp4", to("tcp4"), "x"); !isReset(err) {
				t.Errorf("a new connection: %v, want a reset", err)
			}
			a.ended("source", "NETWORK_POLICY", "src.workload=client", "bytes_sent=0", "bytes_recv=0")
			rules(t, s.client.Node, "")
			if _, _, err := talk(t, s.client, "tcp4", to("tcp4"), "x"); err != nil {
				t.Errorf("allowed again: %v", err)
			}
		})
	}
}

// TestSameNodeBreaks: what ends a connection between nodes ends one inside a node, with a reset.
func TestSameNodeBreaks(t *testing.T) {
	testutil.Privileged(t)
	t.Run("ztunnel dies", func(t *testing.T) {
		s := newSpine(t, Options{})
		served := make(chan error, 1)
		serve(t, s.near, ":7010", func(c *net.TCPConn) {
			_, _ = c.Write([]byte("x"))
			served <- ending(c, 30*time.Second)
		})
		c := dial(t, s.client, "tcp", s.near.Addr("tcp4", 7010).String(), 30*time.Second)
		defer c.Close()
		if _, err := c.Read(make([]byte, 1)); err != nil {
			t.Fatal(err)
		}
		if _, err := s.client.Node.System.Ztunnel.KillChild(); err != nil {
			t.Fatal(err)
		}
		if err := ending(c, 10*time.Second); !errors.Is(err, syscall.ECONNRESET) {
			t.Errorf("the client's connection ended with %v, want a reset", err)
		}
		if err := <-served; !errors.Is(err, syscall.ECONNRESET) {
			t.Errorf("the server's connection ended with %v, want a reset", err)
		}
		testutil.Eventually(t, told, "the next ztunnel serves both", func() bool {
			_, _, err := talk(t, s.client, "tcp4", s.near.Addr("tcp4", 8080).String(), "x")
			return err == nil
		})
	})
	t.Run("the server's pod dies", func(t *testing.T) {
		s := newSpine(t, Options{})
		c := openEcho(t, s.client, "tcp4", s.near.Addr("tcp4", 8080).String())
		defer c.Close()
		s.near.Delete()
		// The kernel ends the sockets of a process that dies in order, and so they end here: as without a mesh.
		if err := ending(c, 10*time.Second); err != nil && !errors.Is(err, syscall.ECONNRESET) {
			t.Errorf("the client's connection ended with %v", err)
		}
		if _, _, err := talk(t, s.client, "tcp4", s.near.Addr("tcp4", 8080).String(), "x"); err == nil {
			t.Error("a dead pod answers")
		}
	})
}
