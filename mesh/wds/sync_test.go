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
	"go.uber.org/goleak"

	"github.com/warren-mesh/warren/mesh"
)

func TestMain(m *testing.M) {
	sealedMain() // the child of TestSealed does not come back
	goleak.VerifyTestMain(m)
}

const patience = 20 * time.Second

func TestSync(t *testing.T) {
	s := startServer(t)
	s.store.Apply(manyWorkloads(2000)...)
	s.store.Apply(
		mesh.PutConfig{Config: &mesh.Config{TrustDomain: "example.org"}},
		mesh.PutService{Service: testService("web")},
		mesh.PutPolicy{Policy: testPolicy("strict")},
	)
	c := startClient(t, s)
	c.waitReady(t)
	// Ready means complete, not merely connected.
	if d := difference(s.store.Snapshot(), c.store.Snapshot()); d != "" {
		t.Fatal(d)
	}

	t.Run("update", func(t *testing.T) {
		before := c.received.Load()
		w := *s.store.Snapshot().Workload(uid(7))
		w.Ready = false
		s.store.Apply(mesh.PutWorkload{Workload: &w})
		c.waitEqual(t)
		if got := c.received.Load() - before; got != 1 {
			t.Errorf("one update sent %d resources", got)
		}
	})
	t.Run("remove", func(t *testing.T) {
		s.store.Apply(
			mesh.DeleteWorkload{UID: uid(8)},
			mesh.DeleteService{Name: testService("web").NamespacedName()},
			mesh.DeletePolicy{Name: testPolicy("strict").Name},
		)
		c.waitEqual(t)
	})
	t.Run("and again", func(t *testing.T) {
		s.store.Apply(
			mesh.PutWorkload{Workload: testWorkload(8)},
			mesh.PutService{Service: testService("web")},
			mesh.PutPolicy{Policy: testPolicy("strict")},
		)
		c.waitEqual(t)
	})
	t.Run("addresses that move", func(t *testing.T) {
		a, b := *s.store.Snapshot().Workload(uid(1)), *s.store.Snapshot().Workload(uid(2))
		a.Addresses, b.Addresses = b.Addresses, a.Addresses
		s.store.Apply(mesh.PutWorkload{Workload: &a}, mesh.PutWorkload{Workload: &b})
		c.waitEqual(t)
		for _, w := range []*mesh.Workload{&a, &b} {
			if got := c.store.Snapshot().WorkloadByAddr(w.Addresses[0]); got == nil || got.UID != w.UID {
				t.Errorf("%s answers for %s", got.UID, w.Addresses[0])
			}
		}
	})
}

func TestReconnectResendsNothing(t *testing.T) {
	s := startServer(t)
	s.store.Apply(manyWorkloads(2000)...)
	captured := *testWorkload(3)
	captured.CapturedAt = time.Now()
	s.store.Apply(mesh.PutWorkload{Workload: &captured}, mesh.PutPolicy{Policy: testPolicy("old")})
	c := startClient(t, s)
	c.waitReady(t)
	before := c.store.Snapshot()
	s.stop()

	// Another process serves the same mesh, built anew: other pointers, another idea of CapturedAt, one
	// workload less, another policy.
	s2 := startServer(t)
	s2.store.Apply(manyWorkloads(1999)...)
	again := *testWorkload(3)
	again.CapturedAt = time.Now().Add(time.Hour)
	s2.store.Apply(mesh.PutWorkload{Workload: &again}, mesh.PutPolicy{Policy: testPolicy("new")})
	c.received.Store(0)
	c.redirect(s2)
	c.waitEqual(t)
	if got := c.received.Load(); got != 1 {
		t.Errorf("%d resources were sent, want the new policy alone", got)
	}
	if before.Workload(uid(5)) != c.store.Snapshot().Workload(uid(5)) {
		t.Error("an unchanged workload was replaced")
	}
}

func TestStateOutlivesTheServer(t *testing.T) {
	s := startServer(t)
	s.store.Apply(manyWorkloads(10)...)
	c := startClient(t, s)
	c.waitReady(t)
	s.stop()
	eventually(t, func() string {
		if c.failures() == 0 {
			return "the client has not noticed"
		}
		return ""
	})
	if d := difference(s.store.Snapshot(), c.store.Snapshot()); d != "" {
		t.Error(d)
	}
}

func TestRejectedResourcesLeaveTheRest(t *testing.T) {
	log := &record{}
	s := startServerWith(t, slog.New(log))
	good, bad := testWorkload(1), testWorkload(2)
	s.store.Apply(mesh.PutWorkload{Workload: good}, mesh.PutWorkload{Workload: bad})
	c := startClient(t, s)
	c.waitReady(t)

	// A value that encodes but means nothing to the client: as from a newer server.
	newer := *bad
	newer.Capture = mesh.Capture(9)
	changed := *good
	changed.Node = "moved"
	s.store.Apply(mesh.PutWorkload{Workload: &newer}, mesh.PutWorkload{Workload: &changed})
	c.store.Wait(t.Context(), func(snap *mesh.Snapshot) bool { return snap.Workload(uid(1)).Node == "moved" })
	if got := c.store.Snapshot().Workload(uid(2)).Capture; got != bad.Capture {
		t.Errorf("the rejected workload became %v", got)
	}
	eventually(t, func() string {
		if !log.has(uid(2)) || log.has(uid(1)) {
			return "the server's log does not name the rejected resource alone"
		}
		return ""
	})

	// Mended, it goes through; and rejections do not stop what comes after.
	s.store.Apply(mesh.PutWorkload{Workload: bad})
	w := *bad
	w.Node = "mended"
	s.store.Apply(mesh.PutWorkload{Workload: &w})
	c.waitEqual(t)
}

// unreadable is a policy that encodes but that no reader accepts, as from a newer server.
func unreadable(name string, scope mesh.Scope, action mesh.Action) *mesh.Policy {
	return &mesh.Policy{
		Name: mesh.Name{Namespace: "ns", Name: name}, Scope: scope, Action: action,
		Rules: []mesh.Rule{{Clauses: []mesh.Clause{{Matches: []mesh.Match{{
			ServiceAccounts: []mesh.Name{{Namespace: "nameless"}}}}}}}},
	}
}

func TestPolicyThatCannotBeReadRefuses(t *testing.T) {
	s := startServer(t)
	allow, deny := unreadable("allow", mesh.ScopeMesh, mesh.Allow), unreadable("deny", mesh.ScopeNamespace, mesh.Deny)
	s.store.Apply(mesh.PutPolicy{Policy: allow}, mesh.PutPolicy{Policy: deny})
	c := startClient(t, s)
	c.waitReady(t)
	for _, want := range []*mesh.Policy{
		{Name: allow.Name, Scope: mesh.ScopeMesh, Action: mesh.Allow},                            // nothing matches it
		{Name: deny.Name, Scope: mesh.ScopeNamespace, Action: mesh.Deny, Rules: []mesh.Rule{{}}}, // everything does
	} {
		if d := cmp.Diff(want, c.store.Snapshot().Policy(want.Name)); d != "" {
			t.Errorf("%s (-want +got):\n%s", want.Name, d)
		}
	}
	s.store.Apply(mesh.DeletePolicy{Name: deny.Name}, mesh.PutPolicy{Policy: testPolicy("allow")})
	c.waitEqual(t)

	// Once a good version is there it stays.
	s.store.Apply(mesh.PutPolicy{Policy: allow}, mesh.PutWorkload{Workload: testWorkload(1)})
	c.store.Wait(t.Context(), func(snap *mesh.Snapshot) bool { return snap.Workload(uid(1)) != nil })
	if d := cmp.Diff(testPolicy("allow"), c.store.Snapshot().Policy(allow.Name)); d != "" {
		t.Errorf("the last good version (-want +got):\n%s", d)
	}
}

func TestBackoff(t *testing.T) {
	for failures := range 100 {
		got := backoff(failures, maxBackoff)
		full := min(maxBackoff, minBackoff<<min(failures, 20))
		if got > full || got < full/2 {
			t.Errorf("after %d failures: %v, want %v less up to half", failures, got, full)
		}
	}
}

func TestConcurrentClients(t *testing.T) {
	s := startServer(t)
	s.store.Apply(manyWorkloads(300)...)
	var clients []*client
	for range 8 {
		clients = append(clients, startClient(t, s))
	}
	var wg sync.WaitGroup
	for g := range 4 {
		wg.Go(func() {
			for i := range 200 {
				n := (g*200 + i) % 400
				if i%3 == 0 {
					s.store.Apply(mesh.DeleteWorkload{UID: uid(n)})
					continue
				}
				w := *testWorkload(n)
				w.Node = fmt.Sprint("node-", g, "-", i)
				s.store.Apply(mesh.PutWorkload{Workload: &w})
			}
		})
	}
	wg.Wait()
	for _, c := range clients {
		c.waitReady(t)
		c.waitEqual(t)
	}
	if got := s.Streams(); got != len(clients) {
		t.Errorf("%d streams, want %d", got, len(clients))
	}
}

func TestCaptureIsDatedWhenSeenToBegin(t *testing.T) {
	s := startServer(t)
	w := *testWorkload(1)
	w.Capture = mesh.Pending
	s.store.Apply(mesh.PutWorkload{Workload: &w}, mesh.PutWorkload{Workload: testWorkload(2)})
	c := startClient(t, s)
	c.waitReady(t)
	w.Capture, w.CapturedRunning = mesh.Captured, true
	next := w
	s.store.Apply(mesh.PutWorkload{Workload: &next})
	c.waitEqual(t)
	if at := c.store.Snapshot().Workload(uid(1)).CapturedAt; !at.Equal(c.now) {
		t.Errorf("seen to begin: captured at %v, want %v", at, c.now)
	}
	if at := c.store.Snapshot().Workload(uid(2)).CapturedAt; !at.IsZero() {
		t.Errorf("captured from the beginning: %v, want no date", at)
	}
}

func TestForeignServerHasNoConfig(t *testing.T) {
	s := startServer(t)
	s.store.Apply(mesh.PutConfig{Config: &mesh.Config{TrustDomain: "theirs"}}, mesh.PutWorkload{Workload: testWorkload(1)})
	c := startClientWith(t, s, ClientConfig{Foreign: true})
	c.waitReady(t)
	snap := c.store.Snapshot()
	if snap.Workload(uid(1)) == nil || snap.Config().TrustDomain != "" {
		t.Errorf("workload %v, trust domain %q", snap.Workload(uid(1)), snap.Config().TrustDomain)
	}
}

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
