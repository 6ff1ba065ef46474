// SPDX-License-Identifier: Apache-2.0

package wds

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	discovery "github.com/envoyproxy/go-control-plane/envoy/service/discovery/v3"
	"github.com/google/go-cmp/cmp"

	"github.com/warren-mesh/warren/mesh"
)

// server is a Server on a socket.
type server struct {
	*Server
	store *mesh.Store
	path  string
	stop  func()
}

func startServer(t *testing.T) *server { return startServerWith(t, slog.New(slog.DiscardHandler)) }

func startServerWith(t *testing.T, log *slog.Logger) *server {
	t.Helper()
	s := &server{store: mesh.NewStore(), path: filepath.Join(t.TempDir(), "wds.sock")}
	s.Server = NewServer(s.store, log, "")
	l, err := net.Listen("unix", s.path)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	go func() {
		defer close(done)
		if err := s.Serve(ctx, l); err != nil {
			t.Errorf("serve: %v", err)
		}
	}()
	s.stop = func() { cancel(); <-done }
	t.Cleanup(s.stop)
	return s
}

// client is a Client that counts what it is sent.
type client struct {
	*Client
	store    *mesh.Store
	now      time.Time
	received atomic.Int64

	mu     sync.Mutex
	server *server
	failed int
}

func startClient(t *testing.T, s *server) *client {
	t.Helper()
	return startClientWith(t, s, ClientConfig{Node: "ztunnel~10.0.0.1~z.ns~ns.svc.cluster.local"})
}

func startClientWith(t *testing.T, s *server, cfg ClientConfig) *client {
	t.Helper()
	c := &client{store: mesh.NewStore(), server: s, now: time.Unix(1700000000, 0)}
	cfg.Now = func() time.Time { return c.now }
	c.Client = NewClient(cfg)
	c.Client.observe = func(r *discovery.DeltaDiscoveryResponse) { c.received.Add(int64(len(r.Resources))) }
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	go func() {
		defer close(done)
		if err := c.Run(ctx, c.dial, c.store); !errors.Is(err, context.Canceled) {
			t.Errorf("run: %v", err)
		}
	}()
	t.Cleanup(func() { cancel(); <-done })
	return c
}

func (c *client) dial(ctx context.Context) (net.Conn, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	conn, err := (&net.Dialer{}).DialContext(ctx, "unix", c.server.path)
	if err != nil {
		c.failed++
	}
	return conn, err
}

func (c *client) failures() int {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.failed
}

func (c *client) redirect(s *server) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.server = s
}

func (c *client) waitReady(t *testing.T) {
	t.Helper()
	select {
	case <-c.Ready():
	case <-time.After(patience):
		t.Fatal("client is not ready")
	}
}

func (c *client) waitFor(t *testing.T, done func(*mesh.Snapshot) bool) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	if _, err := c.store.Wait(ctx, done); err != nil {
		t.Fatal(err)
	}
}

func (c *client) waitEqual(t *testing.T) {
	t.Helper()
	eventually(t, func() string { return difference(c.server.store.Snapshot(), c.store.Snapshot()) })
}

// difference compares two snapshots apart from CapturedAt, which is each process's own.
func difference(want, got *mesh.Snapshot) string {
	return cmp.Diff(contents(want), contents(got), addrs)
}

func contents(s *mesh.Snapshot) map[string]any {
	out := map[string]any{"config": *s.Config()}
	s.Workloads(func(w *mesh.Workload) bool {
		c := *w
		c.CapturedAt = time.Time{}
		out[w.UID] = c
		return true
	})
	s.Services(func(v *mesh.Service) bool { out["service "+v.NamespacedName().String()] = *v; return true })
	s.Policies(func(p *mesh.Policy) bool { out["policy "+p.Name.String()] = *p; return true })
	return out
}

func uid(i int) string { return fmt.Sprintf("c//Pod/ns/p%d", i) }

func testWorkload(i int) *mesh.Workload {
	return &mesh.Workload{
		UID: uid(i), PodUID: fmt.Sprint("uid-", i), Namespace: "ns", Name: fmt.Sprint("p", i),
		Addresses: []netip.Addr{
			netip.AddrFrom4([4]byte{10, 0, byte(i >> 8), byte(i)}),
			netip.AddrFrom16([16]byte{0xfd, 14: byte(i >> 8), 15: byte(i)}),
		},
		Node: "n", ServiceAccount: "sa", Capture: mesh.Captured, Ready: true, WorkloadType: "deployment",
		Services: map[mesh.Name]mesh.EndpointPorts{{Namespace: "ns", Name: "web"}: {80: 8080}},
		Policies: []mesh.Name{{Namespace: "ns", Name: "strict"}},
	}
}

func manyWorkloads(n int) (out []mesh.Change) {
	for i := range n {
		out = append(out, mesh.PutWorkload{Workload: testWorkload(i)})
	}
	return out
}

func testService(name string) *mesh.Service {
	return &mesh.Service{
		Namespace: "ns", Name: name, Hostname: name + ".ns.svc.cluster.local",
		Addresses: []netip.Addr{netip.MustParseAddr("10.96.0.7"), netip.MustParseAddr("fd00::7")},
		Ports:     []mesh.ServicePort{{Name: "http", Port: 80, TargetPort: 8080, AppProtocol: "http"}},
	}
}

func testPolicy(name string) *mesh.Policy {
	return &mesh.Policy{
		Name: mesh.Name{Namespace: "ns", Name: name}, Scope: mesh.ScopeWorkload, Action: mesh.Deny, Strict: true,
		Rules: []mesh.Rule{{Clauses: []mesh.Clause{{Matches: []mesh.Match{{
			NotPrincipals: []mesh.StringMatch{{Kind: mesh.MatchPresence}}}}}}}},
	}
}

func eventually(t *testing.T, problem func() string) {
	t.Helper()
	for deadline := time.Now().Add(patience); ; time.Sleep(5 * time.Millisecond) {
		p := problem()
		if p == "" {
			return
		}
		if time.Now().After(deadline) {
			t.Fatal(p)
		}
	}
}

// record is a log handler that keeps what it is told.
type record struct {
	mu    sync.Mutex
	lines []string
}

func (r *record) Enabled(context.Context, slog.Level) bool { return true }
func (r *record) WithGroup(string) slog.Handler            { return r }
func (r *record) WithAttrs([]slog.Attr) slog.Handler       { return r }

func (r *record) Handle(_ context.Context, rec slog.Record) error {
	line := rec.Message
	rec.Attrs(func(a slog.Attr) bool { line += " " + a.String(); return true })
	r.mu.Lock()
	defer r.mu.Unlock()
	r.lines = append(r.lines, line)
	return nil
}

func (r *record) has(s string) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	return slices.ContainsFunc(r.lines, func(l string) bool { return strings.Contains(l, s) })
}
