// SPDX-License-Identifier: Apache-2.0

package wds

import (
	"context"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"sync"
	"testing"
	"time"

	discovery "github.com/envoyproxy/go-control-plane/envoy/service/discovery/v3"
	"github.com/google/go-cmp/cmp"
	"go.uber.org/goleak"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/anypb"

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
	c.waitFor(t, func(snap *mesh.Snapshot) bool { return snap.Workload(uid(1)).Node == "moved" })
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
	c.waitFor(t, func(snap *mesh.Snapshot) bool { return snap.Workload(uid(1)) != nil })
	if d := cmp.Diff(testPolicy("allow"), c.store.Snapshot().Policy(allow.Name)); d != "" {
		t.Errorf("the last good version (-want +got):\n%s", d)
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

// TestWithoutConfiguration: as long as there is none that can be read, no address counts as outside the cluster.
func TestWithoutConfiguration(t *testing.T) {
	outside := netip.MustParseAddr("192.0.2.1")
	c, store := NewClient(ClientConfig{}), mesh.NewStore()
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	_ = c.Run(ctx, func(context.Context) (net.Conn, error) { return nil, ctx.Err() }, store)
	inCluster := func(when string, want bool) {
		t.Helper()
		if got := store.Snapshot().Config().InCluster(outside); got != want {
			t.Errorf("%s: %s in the cluster: %v, want %v", when, outside, got, want)
		}
	}
	answer := func(r *discovery.DeltaDiscoveryResponse) { r.TypeUrl = TypeConfig; c.respond(r, store) }
	config := func(value []byte) *discovery.DeltaDiscoveryResponse {
		return &discovery.DeltaDiscoveryResponse{Resources: []*discovery.Resource{
			{Name: ConfigName, Version: "1", Resource: &anypb.Any{TypeUrl: TypeConfig, Value: value}}}}
	}
	inCluster("before the first answer", true)
	answer(config([]byte("\xff")))
	inCluster("unreadable", true)
	good, err := proto.Marshal(FromConfig(&mesh.Config{ClusterCIDRs: []netip.Prefix{netip.MustParsePrefix("10.0.0.0/8")}}))
	if err != nil {
		t.Fatal(err)
	}
	answer(config(good))
	inCluster("read", false)
	answer(&discovery.DeltaDiscoveryResponse{RemovedResources: []string{ConfigName}})
	inCluster("removed", true)
}
