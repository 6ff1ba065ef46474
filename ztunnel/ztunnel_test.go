// SPDX-License-Identifier: Apache-2.0

package ztunnel

import (
	"context"
	"errors"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/netip"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/warren-mesh/warren/mesh"
	"github.com/warren-mesh/warren/ztunnel/accesslog"
	"github.com/warren-mesh/warren/ztunnel/inpod"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// noBroker is a broker that never comes.
type noBroker struct{ events chan inpod.Event }

func (noBroker) Dial(context.Context, string, netip.AddrPort, netip.AddrPort) (*inpod.Conn, error) {
	return nil, inpod.ErrNoSocket
}
func (noBroker) DialSelf(context.Context, netip.AddrPort) (net.Conn, error) {
	return nil, inpod.ErrNoSocket
}
func (noBroker) Unix(context.Context, string) (net.Conn, error)   { return nil, inpod.ErrNoSocket }
func (noBroker) ReadFile(context.Context, string) ([]byte, error) { return nil, inpod.ErrNoSocket }
func (noBroker) Drained(string)                                   {}
func (noBroker) Reopen(string)                                    {}
func (noBroker) Run(ctx context.Context) error                    { <-ctx.Done(); return nil }
func (b noBroker) Events() <-chan inpod.Event                     { return b.events }

func start(t *testing.T) (z *ZTunnel, cfg Config, stop func() error) {
	t.Helper()
	listen := func() net.Listener {
		l, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		return l
	}
	cfg = Config{
		Node: "n1", CAService: mesh.Name{Namespace: "warren-system", Name: "warren-control"}, CAPort: 15012,
		Broker: noBroker{make(chan inpod.Event)}, Admin: listen(), Metrics: listen(), Ready: listen(),
		AccessLog: accesslog.New(io.Discard, accesslog.Text), Log: slog.New(slog.DiscardHandler), Level: new(slog.LevelVar),
	}
	z, err := New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- z.Run(ctx) }()
	return z, cfg, func() error {
		cancel()
		select {
		case err := <-done:
			return err
		case <-time.After(5 * time.Second):
			return errors.New("it does not end")
		}
	}
}

func page(t *testing.T, l net.Listener, path string) (int, string) {
	t.Helper()
	c := http.Client{Timeout: 5 * time.Second, Transport: &http.Transport{DisableKeepAlives: true}}
	r, err := c.Get("http://" + l.Addr().String() + path)
	if err != nil {
		t.Fatal(err)
	}
	defer r.Body.Close()
	b, err := io.ReadAll(r.Body)
	if err != nil {
		t.Fatal(err)
	}
	return r.StatusCode, string(b)
}

func TestRunWithoutAnyone(t *testing.T) {
	_, cfg, stop := start(t)
	if code, body := page(t, cfg.Ready, "/healthz/ready"); code != 500 || !strings.Contains(body, "not ready, pending: certificates, pods announced, trust bundle, workload discovery") {
		t.Errorf("readiness: %d %s", code, body)
	}
	if code, body := page(t, cfg.Metrics, "/metrics"); code != 200 || !strings.Contains(body, "istio_build") {
		t.Errorf("metrics: %d %s", code, body)
	}
	if code, _ := page(t, cfg.Admin, "/config_dump"); code != 200 {
		t.Errorf("config dump: %d", code)
	}
	if err := stop(); err != nil {
		t.Errorf("run: %v", err)
	}
}

func TestAListenerThatFailsEndsRun(t *testing.T) {
	_, cfg, stop := start(t)
	cfg.Metrics.Close()
	defer func() {
		if err := stop(); err == nil || !strings.Contains(err.Error(), "metrics") {
			t.Errorf("run: got %v, want the failure of the metrics page", err)
		}
	}()
	for deadline := time.Now().Add(5 * time.Second); time.Now().Before(deadline); time.Sleep(5 * time.Millisecond) {
		c, err := net.Dial("tcp", cfg.Admin.Addr().String())
		if err != nil {
			return // the other pages went with it
		}
		c.Close()
	}
	t.Error("the other parts go on")
}

func TestAuthoritiesComeFromTheMesh(t *testing.T) {
	z, _, stop := start(t)
	defer func() {
		if err := stop(); err != nil {
			t.Error(err)
		}
	}()
	if got := z.authorities(); got != nil {
		t.Errorf("before anything is known: got %v", got)
	}
	name := mesh.Name{Namespace: "warren-system", Name: "warren-control"}
	pod := func(n, ip string, ready bool, c mesh.Capture) mesh.Change {
		return mesh.PutWorkload{Workload: &mesh.Workload{UID: n, Ready: ready, Capture: c, Addresses: []netip.Addr{netip.MustParseAddr(ip)},
			Services: map[mesh.Name]mesh.EndpointPorts{name: {15012: 25012}}}}
	}
	z.store.Apply(mesh.PutService{Service: &mesh.Service{Namespace: name.Namespace, Name: name.Name}},
		pod("a", "10.0.0.1", true, mesh.Outside), pod("b", "10.0.0.2", false, mesh.Outside), pod("c", "fd00::3", true, mesh.Outside))
	var got []string
	for _, a := range z.authorities() {
		got = append(got, a.String())
	}
	slices.Sort(got)
	if want := []string{"10.0.0.1:25012", "[fd00::3]:25012"}; !slices.Equal(got, want) {
		t.Errorf("got %v, want the ready endpoints %v", got, want)
	}
}

// counting counts the connections that were accepted.
type counting struct {
	net.Listener
	accepted atomic.Int64
}

func (l *counting) Accept() (net.Conn, error) {
	c, err := l.Listener.Accept()
	if err == nil {
		l.accepted.Add(1)
	}
	return c, err
}

// TestPagesHoldFewConnections: whoever connects to a page and keeps still can't use up the process's descriptors.
func TestPagesHoldFewConnections(t *testing.T) {
	tcp, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	l := &counting{Listener: tcp}
	ctx, stop := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- serve(l, http.NotFoundHandler(), slog.New(slog.DiscardHandler))(ctx) }()
	for range 2 * pageConnections {
		c, err := net.Dial("tcp", tcp.Addr().String())
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
	}
	for l.accepted.Load() < pageConnections {
		time.Sleep(time.Millisecond)
	}
	time.Sleep(20 * time.Millisecond)
	if n := l.accepted.Load(); n > pageConnections {
		t.Errorf("%d connections were accepted, want at most %d", n, pageConnections)
	}
	stop()
	if err := <-done; err != nil {
		t.Error(err)
	}
}
