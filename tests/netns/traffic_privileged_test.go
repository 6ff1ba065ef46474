// SPDX-License-Identifier: Apache-2.0

package netns

import (
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/warren-mesh/warren/tests/testutil"
)

// scale shrinks a figure for quick runs on a developer's machine: WARREN_SCALE=20 divides by 20. Under CI it is 1.
func scale(n int) int {
	if by, err := strconv.Atoi(os.Getenv("WARREN_SCALE")); err == nil && by > 0 && os.Getenv("CI") == "" {
		return max(n/by, 1)
	}
	return n
}

// TestTraffic puts the tunnel under every load whose outcome can be told exactly.
func TestTraffic(t *testing.T) {
	testutil.Privileged(t)
	s := newSpine(t, Options{})
	t.Run("short connections", func(t *testing.T) { shortConnections(t, direct(s.client, s.far), scale(20000)) })
	t.Run("both directions at once", func(t *testing.T) { bothDirections(t, direct(s.client, s.far), int64(scale(1<<30))) })
	t.Run("half-close by the client first", func(t *testing.T) { halfCloseClient(t, direct(s.client, s.far)) })
	t.Run("half-close by the server first", func(t *testing.T) { halfCloseServer(t, direct(s.client, s.far)) })
	t.Run("reset by the client", func(t *testing.T) { resetByClient(t, direct(s.client, s.far)) })
	t.Run("reset by the server", func(t *testing.T) { resetByServer(t, direct(s.client, s.far)) })
	t.Run("a slow reader beside fast ones", func(t *testing.T) { slowReader(t, direct(s.client, s.far)) })
	t.Run("streams of one tunnel", func(t *testing.T) { oneTunnel(t, s, 256) })
}

// journey is who connects to whom, and what the client dials to get to a port of the server.
type journey struct {
	client, server *Pod
	to             func(network string, port uint16) string
}

// direct is the journey of an application that dials the server itself.
func direct(client, server *Pod) journey {
	return journey{client, server, func(network string, port uint16) string { return server.Addr(network, port).String() }}
}

func shortConnections(t *testing.T, j journey, n int) {
	serve(t, j.server, ":7001", func(c *net.TCPConn) {
		_ = c.SetDeadline(time.Now().Add(20 * time.Second))
		b, err := io.ReadAll(c)
		if err == nil {
			_, _ = c.Write(b)
		}
	})
	address := j.to("tcp4", 7001)
	var next, failed atomic.Int64
	var wg sync.WaitGroup
	started := time.Now()
	for range 16 {
		wg.Go(func() {
			for i := next.Add(1); i <= int64(n) && failed.Load() < 10; i = next.Add(1) {
				if err := exchange(t, j.client, address, fmt.Sprintf("connection %d", i)); err != nil {
					failed.Add(1)
					t.Errorf("connection %d of %d: %v", i, n, err)
				}
			}
		})
	}
	wg.Wait()
	t.Logf("%d connections, %.0f/s", n, float64(n)/time.Since(started).Seconds())
}

// exchange sends a text, closes its side and wants the text back, then EOF.
func exchange(t *testing.T, p *Pod, address, text string) error {
	c, err := p.Dial(t.Context(), "tcp", address)
	if err != nil {
		return err
	}
	defer c.Close()
	_ = c.SetDeadline(time.Now().Add(20 * time.Second))
	if _, err := io.WriteString(c, text); err != nil {
		return err
	}
	if err := c.(*net.TCPConn).CloseWrite(); err != nil {
		return err
	}
	b, err := io.ReadAll(c)
	if err == nil && string(b) != text {
		err = fmt.Errorf("got %q back, sent %q", b, text)
	}
	return err
}

func bothDirections(t *testing.T, j journey, n int64) {
	type outcome struct {
		sent, got uint32
		n         int64
		err       error
	}
	both := func(c *net.TCPConn) outcome {
		_ = c.SetDeadline(time.Now().Add(2 * time.Minute))
		var o outcome
		sending := make(chan error, 1)
		go func() {
			var err error
			if o.sent, err = sendBlocks(c, n); err == nil {
				err = c.CloseWrite()
			}
			sending <- err
		}()
		var err error
		o.n, o.got, err = receiveAll(c)
		o.err = errors.Join(err, <-sending)
		return o
	}
	server := make(chan outcome, 1)
	serve(t, j.server, ":7002", func(c *net.TCPConn) { server <- both(c) })
	started := time.Now()
	c := dial(t, j.client, "tcp", j.to("tcp6", 7002), 2*time.Minute)
	defer c.Close()
	a := both(c)
	b := <-server
	if a.err != nil || b.err != nil || a.n != n || b.n != n || a.sent != b.got || b.sent != a.got {
		t.Fatalf("client %+v\nserver %+v\nwant %d bytes each way, the same sums", a, b, n)
	}
	t.Logf("%d MiB each way, %.0f MiB/s each", n>>20, float64(n>>20)/time.Since(started).Seconds())
}

func halfCloseClient(t *testing.T, j journey) {
	serve(t, j.server, ":7003", func(c *net.TCPConn) {
		n, sum, err := receiveAll(c)
		fmt.Fprintf(c, "%d %d %v", n, sum, err)
	})
	c := dial(t, j.client, "tcp", j.to("tcp4", 7003), 20*time.Second)
	defer c.Close()
	sum, err := sendBlocks(c, 1<<20)
	if err != nil {
		t.Fatal(err)
	}
	if err := c.CloseWrite(); err != nil {
		t.Fatal(err)
	}
	b, err := io.ReadAll(c)
	if want := fmt.Sprintf("%d %d <nil>", 1<<20, sum); err != nil || string(b) != want {
		t.Errorf("got %q, %v; want %q", b, err, want)
	}
}

func halfCloseServer(t *testing.T, j journey) {
	type outcome struct {
		n   int64
		sum uint32
		err error
	}
	got := make(chan outcome, 1)
	serve(t, j.server, ":7004", func(c *net.TCPConn) {
		_, _ = io.WriteString(c, "all there is")
		_ = c.CloseWrite()
		var o outcome
		o.n, o.sum, o.err = receiveAll(c)
		got <- o
	})
	c := dial(t, j.client, "tcp", j.to("tcp4", 7004), 20*time.Second)
	defer c.Close()
	if b, err := io.ReadAll(c); err != nil || string(b) != "all there is" {
		t.Fatalf("read %q, %v", b, err)
	}
	sum, err := sendBlocks(c, 1<<20) // after the server's EOF
	if err != nil {
		t.Fatal(err)
	}
	if err := c.CloseWrite(); err != nil {
		t.Fatal(err)
	}
	if o := <-got; o.err != nil || o.n != 1<<20 || o.sum != sum {
		t.Errorf("the server got %+v, want %d bytes with sum %d", o, 1<<20, sum)
	}
}

func resetByClient(t *testing.T, j journey) {
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
	if err := <-got; !errors.Is(err, syscall.ECONNRESET) {
		t.Errorf("the server saw %v, want a reset", err)
	}
}

func resetByServer(t *testing.T, j journey) {
	serve(t, j.server, ":7006", func(c *net.TCPConn) {
		_, _ = c.Read(make([]byte, 1))
		_ = c.SetLinger(0)
	})
	c := dial(t, j.client, "tcp", j.to("tcp4", 7006), 10*time.Second)
	defer c.Close()
	_, _ = c.Write([]byte("x"))
	if err := ending(c, 10*time.Second); !errors.Is(err, syscall.ECONNRESET) {
		t.Errorf("the client saw %v, want a reset", err)
	}
}

// slowReader has one connection whose server reads nothing: others between the same pods must not notice.
func slowReader(t *testing.T, j journey) {
	release := make(chan struct{})
	slow := make(chan string, 1)
	serve(t, j.server, ":7007", func(c *net.TCPConn) {
		<-release
		n, sum, err := receiveAll(c)
		slow <- fmt.Sprint(n, sum, err)
	})
	serve(t, j.server, ":7008", func(c *net.TCPConn) { _, _, _ = receiveAll(c); _, _ = c.Write([]byte("done")) })
	blocked := dial(t, j.client, "tcp", j.to("tcp4", 7007), time.Minute)
	defer blocked.Close()
	const n = 64 << 20
	sent := make(chan string, 1)
	go func() {
		sum, err := sendBlocks(blocked, n)
		if err == nil {
			err = blocked.CloseWrite()
		}
		sent <- fmt.Sprint(n, sum, err)
	}()
	for i := range 4 {
		c := dial(t, j.client, "tcp", j.to("tcp4", 7008), 10*time.Second)
		if _, err := sendBlocks(c, 8<<20); err != nil {
			t.Fatalf("fast connection %d: %v", i, err)
		}
		_ = c.CloseWrite()
		if b, err := io.ReadAll(c); err != nil || string(b) != "done" {
			t.Fatalf("fast connection %d: %q, %v", i, b, err)
		}
		c.Close()
	}
	select {
	case <-sent:
		t.Errorf("the mesh swallowed %d MiB that nobody read", n>>20)
	default:
	}
	close(release)
	if want, got := <-sent, <-slow; got != want || !strings.HasSuffix(got, "<nil>") {
		t.Errorf("the slow reader got %s, sent were %s", got, want)
	}
}

// oneTunnel opens many connections at once between two pods; they share one connection on the wire.
func oneTunnel(t *testing.T, s *spine, n int) {
	wire := s.Capture()
	conns := make([]*net.TCPConn, n)
	for i := range conns {
		conns[i] = openEcho(t, s.client, "tcp4", "far:80")
		defer conns[i].Close()
	}
	var wg sync.WaitGroup
	for i, c := range conns {
		wg.Go(func() {
			if err := ping(c, fmt.Sprintf("stream %d", i)); err != nil {
				t.Errorf("stream %d: %v", i, err)
			}
		})
	}
	wg.Wait()
	wire.Stop()
	tunnels := map[uint16]bool{}
	for _, f := range wire.Between(s.client.IPv4, s.far.IPv4) {
		if f.Destination.Port() == hbonePort {
			tunnels[f.Source.Port()] = true
		}
	}
	if len(tunnels) != 1 {
		t.Errorf("%d connections used %d tunnels, want 1", n, len(tunnels))
	}
}
