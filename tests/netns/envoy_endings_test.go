// SPDX-License-Identifier: Apache-2.0

package netns

import (
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"syscall"
	"testing"
	"time"

	"github.com/warren-mesh/warren/tests/testutil"
)

// How connections through an Envoy as server begin and end.

// serverFirst is a protocol whose server speaks while the client waits.
func serverFirst(t *testing.T, j journey) {
	serve(t, j.server, ":2525", func(c *net.TCPConn) {
		fmt.Fprint(c, "220 ready\n")
		_, _ = io.Copy(io.Discard, c)
	})
	c := dial(t, j.client, "tcp", j.to("tcp6", 2525), 10*time.Second)
	defer c.Close()
	b := make([]byte, 64)
	if n, err := c.Read(b); err != nil || string(b[:n]) != "220 ready\n" {
		t.Fatalf("read %q, %v", b[:n], err)
	}
	_ = c.CloseWrite()
	if err := ending(c, 10*time.Second); err != nil {
		t.Errorf("ended with %v", err)
	}
}

// serverEndsFirst has the server's side end while the client's is open. Envoy then asks for no more of the client
// (RST_STREAM with NO_ERROR): the answer is whole all the same, and only a client that says more is reset.
func serverEndsFirst(t *testing.T, j journey) {
	const answer = "all there is"
	serve(t, j.server, ":7004", func(c *net.TCPConn) { _, _ = io.WriteString(c, answer) })
	for _, more := range []bool{false, true} {
		a := witness(t, j.client.Node)
		c := dial(t, j.client, "tcp", j.to("tcp6", 7004), 10*time.Second)
		if b, err := io.ReadAll(c); err != nil || string(b) != answer {
			t.Errorf("read %q, %v", b, err)
		}
		reason := "TUNNEL"
		if more {
			reason = "STREAM_RESET"
			_, _ = c.Write([]byte("x"))
			testutil.Eventually(t, told, "who says more is reset", func() bool {
				_, err := c.Write([]byte("x"))
				return err != nil
			})
		}
		c.Close()
		a.ended("source", reason, by(c.LocalAddr().String(), j.client), fmt.Sprint("bytes_recv=", len(answer)))
	}
}

// resetThroughEnvoy wants Envoy to be told of the client's reset. The server it tells nothing but an end.
func resetThroughEnvoy(t *testing.T, j journey, e *envoy) {
	const resets = "http.hbone.downstream_rq_rx_reset"
	before := e.stat(resets)
	got := make(chan error, 1)
	serve(t, j.server, ":7005", func(c *net.TCPConn) {
		_, _ = c.Write([]byte("x"))
		got <- ending(c, 10*time.Second)
	})
	c := dial(t, j.client, "tcp", j.to("tcp4", 7005), 10*time.Second)
	if _, err := c.Read(make([]byte, 1)); err != nil {
		t.Fatal(err)
	}
	_ = c.SetLinger(0)
	c.Close()
	if err := <-got; err != nil && !isReset(err) {
		t.Errorf("the server saw %v, want the end", err)
	}
	if got := e.stat(resets) - before; got != 1 {
		t.Errorf("Envoy was told of %d resets, want one", got)
	}
}

// brokenStream has Envoy end a stream whose two ends wanted it to go on: neither may take that for the end.
func brokenStream(t *testing.T, j journey) {
	got := make(chan error, 1)
	serve(t, j.server, ":7010", func(c *net.TCPConn) {
		_, _ = io.WriteString(c, "half of an answ")
		got <- ending(c, 10*time.Second)
	})
	c := dial(t, j.client, "tcp", j.to("tcp4", 7010), 10*time.Second)
	defer c.Close()
	b := make([]byte, 15)
	if _, err := io.ReadFull(c, b); err != nil || string(b) != "half of an answ" {
		t.Fatalf("read %q, %v", b, err)
	}
	if err := ending(c, 10*time.Second); !errors.Is(err, syscall.ECONNRESET) {
		t.Errorf("the client saw %v, want a reset", err)
	}
	<-got // what the server sees is Envoy's doing
}

// envoyLeaves makes Envoy send GOAWAY with whatever it answers next, as before a shutdown: what lives goes on, what
// comes gets a tunnel of its own.
func envoyLeaves(t *testing.T, j journey, e *envoy) {
	live := map[string]*net.TCPConn{}
	for _, network := range []string{"tcp4", "tcp6"} {
		live[network] = openEcho(t, j.client, network, j.to(network, 8080))
	}
	const leaving = "http.hbone.downstream_cx_drain_close"
	tunnels, left := e.stat(envoyTunnels), e.stat(leaving)
	if _, err := e.admin(http.MethodPost, "/healthcheck/fail"); err != nil {
		t.Fatal(err)
	}
	for i := range 3 {
		for network, c := range live {
			if _, _, err := talk(t, j.client, network, j.to(network, 8080), "meanwhile"); err != nil {
				t.Errorf("connection %d while Envoy leaves: %v", i, err)
			}
			if err := ping(c, "still here"); err != nil {
				t.Errorf("the live connection: %v", err)
			}
		}
	}
	testutil.Eventually(t, told, "Envoy left tunnels for others", func() bool { return e.stat(leaving) > left && e.stat(envoyTunnels) > tunnels })
	if _, err := e.admin(http.MethodPost, "/healthcheck/ok"); err != nil {
		t.Fatal(err)
	}
	for until := time.Now().Add(3 * envoyDrain); time.Now().Before(until); { // past its last GOAWAY
		for _, c := range live {
			if err := ping(c, "to the end"); err != nil {
				t.Fatalf("the live connection: %v", err)
			}
		}
	}
	for network, c := range live {
		_ = c.CloseWrite()
		if err := ending(c, 10*time.Second); err != nil {
			t.Errorf("the live connection ended with %v", err)
		}
		if _, _, err := talk(t, j.client, network, j.to(network, 8080), "afterwards"); err != nil {
			t.Errorf("after Envoy left: %v", err)
		}
	}
}

// envoyDies kills Envoy under live connections.
func envoyDies(t *testing.T, j journey, e *envoy) {
	var live []*net.TCPConn
	for _, network := range []string{"tcp4", "tcp6"} {
		live = append(live, openEcho(t, j.client, network, j.to(network, 8080)))
	}
	e.kill()
	for _, c := range live {
		if err := ending(c, 10*time.Second); !errors.Is(err, syscall.ECONNRESET) {
			t.Errorf("a live connection ended with %v, want a reset", err)
		}
		c.Close()
	}
}
