// SPDX-License-Identifier: Apache-2.0

package wds

import (
	"context"
	"fmt"
	"log/slog"
	"slices"
	"testing"
	"time"

	discovery "github.com/envoyproxy/go-control-plane/envoy/service/discovery/v3"
	"github.com/google/go-cmp/cmp"
	"google.golang.org/genproto/googleapis/rpc/status"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"

	"github.com/warren-mesh/warren/mesh"
)

// rawClient speaks delta ADS by hand, as a client that is not ours would.
type rawClient struct {
	t   *testing.T
	ads discovery.AggregatedDiscoveryService_DeltaAggregatedResourcesClient
	got chan *discovery.DeltaDiscoveryResponse
}

func dialRaw(t *testing.T, s *server) *rawClient {
	t.Helper()
	cc, err := grpc.NewClient("unix:"+s.path, grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	ads, err := discovery.NewAggregatedDiscoveryServiceClient(cc).DeltaAggregatedResources(ctx)
	if err != nil {
		t.Fatal(err)
	}
	c := &rawClient{t: t, ads: ads, got: make(chan *discovery.DeltaDiscoveryResponse)}
	done := make(chan struct{})
	go func() {
		defer close(done)
		for {
			r, err := ads.Recv()
			if err != nil {
				return
			}
			select {
			case c.got <- r:
			case <-ctx.Done():
			}
		}
	}()
	t.Cleanup(func() { cancel(); <-done; cc.Close() })
	return c
}

func (c *rawClient) send(r *discovery.DeltaDiscoveryRequest) {
	c.t.Helper()
	if err := c.ads.Send(r); err != nil {
		c.t.Fatal(err)
	}
}

func (c *rawClient) ack(r *discovery.DeltaDiscoveryResponse) {
	c.t.Helper()
	c.send(&discovery.DeltaDiscoveryRequest{TypeUrl: r.TypeUrl, ResponseNonce: r.Nonce})
}

// next returns the next response in short form: its type, what it puts, what it removes.
func (c *rawClient) next() (*discovery.DeltaDiscoveryResponse, string) {
	c.t.Helper()
	select {
	case r := <-c.got:
		var names []string
		for _, res := range r.Resources {
			names = append(names, res.Name)
		}
		slices.Sort(r.RemovedResources)
		return r, fmt.Sprint(r.TypeUrl[len(typePrefix):], " +", names, " -", r.RemovedResources)
	case <-time.After(patience):
		c.t.Fatal("no response")
		return nil, ""
	}
}

func (c *rawClient) want(want string) *discovery.DeltaDiscoveryResponse {
	c.t.Helper()
	r, got := c.next()
	if got != want {
		c.t.Fatalf("got  %s\nwant %s", got, want)
	}
	return r
}

func TestOrderOfARound(t *testing.T) {
	s := startServer(t)
	c := dialRaw(t, s)
	for _, typeURL := range []string{TypeAddress, TypeAuthorization, TypeConfig} { // not in our client's order
		c.send(&discovery.DeltaDiscoveryRequest{TypeUrl: typeURL})
		r, _ := c.next()
		if r.TypeUrl != typeURL {
			t.Fatalf("got %s, want %s", r.TypeUrl, typeURL)
		}
		c.ack(r)
	}
	allow, deny := testPolicy("allow"), testPolicy("deny")
	allow.Action = mesh.Allow
	s.store.Apply(
		mesh.PutWorkload{Workload: testWorkload(1)}, mesh.PutPolicy{Policy: allow}, mesh.PutPolicy{Policy: deny},
		mesh.PutService{Service: testService("web")}, mesh.PutConfig{Config: &mesh.Config{RootNamespace: "root"}},
	)
	c.ack(c.want("warren.v1alpha1.Config +[mesh] -[]"))
	c.ack(c.want("istio.security.Authorization +[ns/deny ns/allow] -[]"))
	c.ack(c.want("istio.workload.Address +[ns/web.ns.svc.cluster.local c//Pod/ns/p1] -[]"))
	s.store.Apply(
		mesh.DeletePolicy{Name: allow.Name}, mesh.PutPolicy{Policy: testPolicy("other")},
		mesh.DeleteWorkload{UID: uid(1)},
	)
	c.ack(c.want("istio.security.Authorization +[ns/other] -[]"))
	c.ack(c.want("istio.workload.Address +[] -[c//Pod/ns/p1]"))
	c.ack(c.want("istio.security.Authorization +[] -[ns/allow]"))
}

// A policy that held for its namespace and now holds for the workloads that refer to it: at no moment for none.
// And the other way round.
func TestScopeOfAPolicyChanges(t *testing.T) {
	s := startServer(t)
	c := dialRaw(t, s)
	p := testPolicy("p")
	p.Scope = mesh.ScopeNamespace
	s.store.Apply(mesh.PutWorkload{Workload: testWorkload(1)}, mesh.PutPolicy{Policy: p})
	for _, typeURL := range []string{TypeAddress, TypeAuthorization} {
		c.send(&discovery.DeltaDiscoveryRequest{TypeUrl: typeURL})
		r, _ := c.next()
		c.ack(r)
	}
	narrow, referring := *p, *testWorkload(1)
	narrow.Scope, referring.Policies = mesh.ScopeWorkload, []mesh.Name{p.Name}
	s.store.Apply(mesh.PutPolicy{Policy: &narrow}, mesh.PutPolicy{Policy: testPolicy("z")}, mesh.PutWorkload{Workload: &referring})
	c.ack(c.want("istio.security.Authorization +[ns/z] -[]"))
	c.ack(c.want("istio.workload.Address +[c//Pod/ns/p1] -[]"))
	c.ack(c.want("istio.security.Authorization +[ns/p] -[]"))
	again := narrow
	again.DryRun = !again.DryRun
	s.store.Apply(mesh.PutPolicy{Policy: &again})
	c.ack(c.want("istio.security.Authorization +[ns/p] -[]"))
	s.store.Apply(mesh.PutPolicy{Policy: p}, mesh.PutWorkload{Workload: testWorkload(1)})
	c.ack(c.want("istio.security.Authorization +[ns/p] -[]"))
	c.ack(c.want("istio.workload.Address +[c//Pod/ns/p1] -[]"))
}

func TestSlowClientIsSentEachObjectOnce(t *testing.T) {
	for _, rounds := range []int{10, 400} { // what the store remembers, and beyond
		t.Run(fmt.Sprint(rounds), func(t *testing.T) {
			s := startServer(t)
			s.store.Apply(manyWorkloads(3)...)
			c := dialRaw(t, s)
			c.send(&discovery.DeltaDiscoveryRequest{TypeUrl: TypeAddress})
			first, _ := c.next()
			for i := range rounds { // it has not acknowledged
				w := *testWorkload(0)
				w.Node = fmt.Sprint("node-", i)
				s.store.Apply(mesh.PutWorkload{Workload: &w}, mesh.DeleteWorkload{UID: uid(1)})
				if i%2 == 0 {
					s.store.Apply(mesh.PutWorkload{Workload: testWorkload(1)}, mesh.DeleteWorkload{UID: uid(2)})
				}
			}
			c.ack(first)
			c.ack(c.want("istio.workload.Address +[c//Pod/ns/p0] -[c//Pod/ns/p1 c//Pod/ns/p2]"))
		})
	}
}

// sendCounter is the server's side of a client that never answers.
type sendCounter struct {
	adsStream
	sent int
}

func (c *sendCounter) Send(*discovery.DeltaDiscoveryResponse) error { c.sent++; return nil }

func TestNothingIsSentBeforeTheLastRoundIsAnswered(t *testing.T) {
	store, out := mesh.NewStore(), &sendCounter{}
	s := NewServer(store, slog.New(slog.DiscardHandler), "")
	st := newStream(s.log)
	for i, typeURL := range []string{TypeAddress, TypeAuthorization} {
		s.request(st, &discovery.DeltaDiscoveryRequest{TypeUrl: typeURL})
		store.Apply(mesh.PutWorkload{Workload: testWorkload(i)})
		if _, timeout, err := s.push(out, st); err != nil || timeout == nil || out.sent != 1 {
			t.Fatalf("after subscription %d: %d responses, waits for an answer: %v, %v", i, out.sent, timeout != nil, err)
		}
	}
	s.request(st, &discovery.DeltaDiscoveryRequest{TypeUrl: TypeAddress, ResponseNonce: "1"})
	if _, _, err := s.push(out, st); err != nil || out.sent != 3 {
		t.Errorf("after the answer: %d responses, %v", out.sent, err)
	}
}

func TestRejectionIsNotAnsweredByTheSame(t *testing.T) {
	s := startServer(t)
	s.store.Apply(manyWorkloads(1)...)
	c := dialRaw(t, s)
	c.send(&discovery.DeltaDiscoveryRequest{TypeUrl: TypeAddress})
	r := c.want("istio.workload.Address +[c//Pod/ns/p0] -[]")
	c.send(&discovery.DeltaDiscoveryRequest{
		TypeUrl: TypeAddress, ResponseNonce: r.Nonce, ErrorDetail: &status.Status{Message: "p0: no"},
	})
	s.store.Apply(mesh.PutWorkload{Workload: testWorkload(1)})
	c.want("istio.workload.Address +[c//Pod/ns/p1] -[]")
}

func TestSubscriptionByName(t *testing.T) {
	s := startServer(t)
	s.store.Apply(manyWorkloads(3)...)
	c := dialRaw(t, s)
	c.send(&discovery.DeltaDiscoveryRequest{TypeUrl: TypeAddress, ResourceNamesSubscribe: []string{uid(1), "nobody"}})
	c.ack(c.want("istio.workload.Address +[c//Pod/ns/p1] -[nobody]"))
	s.store.Apply(mesh.DeleteWorkload{UID: uid(2)}, mesh.DeleteWorkload{UID: uid(1)})
	c.ack(c.want("istio.workload.Address +[] -[c//Pod/ns/p1]"))
	// Asking again is answered again, changed or not; the wildcard brings the rest.
	c.send(&discovery.DeltaDiscoveryRequest{TypeUrl: TypeAddress, ResourceNamesSubscribe: []string{uid(0)}})
	c.ack(c.want("istio.workload.Address +[c//Pod/ns/p0] -[]"))
	s.store.Apply(mesh.PutWorkload{Workload: testWorkload(2)})
	c.send(&discovery.DeltaDiscoveryRequest{TypeUrl: TypeAddress, ResourceNamesSubscribe: []string{"*"}})
	r, _ := c.next()
	if len(r.Resources) != 2 {
		t.Errorf("wildcard brought %d resources, want 2", len(r.Resources))
	}
}

func TestVersionsTheClientHas(t *testing.T) {
	s := startServer(t)
	s.store.Apply(manyWorkloads(2)...)
	c := dialRaw(t, s)
	c.send(&discovery.DeltaDiscoveryRequest{TypeUrl: TypeAddress})
	r, _ := c.next()
	have := map[string]string{uid(1): "stale", "c//Pod/ns/gone": "x"}
	for _, res := range r.Resources {
		if res.Name == uid(0) {
			have[res.Name] = res.Version
		}
	}
	again := dialRaw(t, s)
	again.send(&discovery.DeltaDiscoveryRequest{TypeUrl: TypeAddress, InitialResourceVersions: have})
	again.want("istio.workload.Address +[c//Pod/ns/p1] -[c//Pod/ns/gone]")
}

func TestUnknownTypeIsIgnored(t *testing.T) {
	s := startServer(t)
	c := dialRaw(t, s)
	c.send(&discovery.DeltaDiscoveryRequest{TypeUrl: typePrefix + "envoy.config.cluster.v3.Cluster"})
	c.send(&discovery.DeltaDiscoveryRequest{TypeUrl: TypeAuthorization})
	c.want("istio.security.Authorization +[] -[]")
}

func TestRemovalsAreForgotten(t *testing.T) {
	s := startServer(t)
	c := startClient(t, s)
	c.waitReady(t)
	for i := range 5 {
		for j := range 200 {
			s.store.Apply(mesh.PutWorkload{Workload: testWorkload(1000*i + j)})
		}
		c.waitEqual(t)
		for j := range 200 {
			s.store.Apply(mesh.DeleteWorkload{UID: uid(1000*i + j)})
		}
		c.waitEqual(t)
	}
	s.hub.mu.Lock()
	defer s.hub.mu.Unlock()
	if got := len(s.hub.loads.entries); got > 600 {
		t.Errorf("%d entries are kept of 1000 workloads that are gone", got)
	}
	if got, want := s.hub.feeds[TypeAddress].order.Len(), len(s.hub.loads.entries); got != want {
		t.Errorf("the feed has %d entries, its table %d", got, want)
	}
}

// A client may decide from any snapshot it ever has, so a workload never refers to a policy it lacks.
func TestNoSnapshotLacksAPolicyItRefersTo(t *testing.T) {
	s := startServer(t)
	c := startClient(t, s)
	c.waitReady(t)
	stop, done := make(chan struct{}), make(chan string, 1)
	go func() {
		for {
			snap, changed := c.store.Watch()
			bad := ""
			snap.Workloads(func(w *mesh.Workload) bool {
				if w.Policies[0].Name != "" && snap.Policy(w.Policies[0]) == nil {
					bad = w.Policies[0].Name
				}
				return bad == ""
			})
			if bad != "" {
				done <- bad
				return
			}
			select {
			case <-changed:
			case <-stop:
				done <- ""
				return
			}
		}
	}()
	for i := range 300 {
		w, now, before := *testWorkload(1), testPolicy(fmt.Sprint("p", i)), testPolicy(fmt.Sprint("p", i-1))
		w.Policies = []mesh.Name{now.Name}
		s.store.Apply(mesh.DeletePolicy{Name: before.Name}, mesh.PutWorkload{Workload: &w}, mesh.PutPolicy{Policy: now})
	}
	c.waitEqual(t)
	close(stop)
	if bad := <-done; bad != "" {
		t.Errorf("a workload referred to policy %s, which was not there", bad)
	}
}

func TestRefreshKeepsWhatCannotBeEncoded(t *testing.T) {
	s := startServer(t)
	s.store.Apply(manyWorkloads(2)...)
	c := startClient(t, s)
	c.waitReady(t)
	w := *testWorkload(1)
	w.Node = "\xff"
	s.store.Apply(mesh.PutWorkload{Workload: &w}, mesh.PutWorkload{Workload: testWorkload(2)})
	eventually(t, func() string {
		if c.store.Snapshot().Workload(uid(2)) == nil {
			return "the rest did not come"
		}
		return ""
	})
	if d := cmp.Diff(*testWorkload(1), *c.store.Snapshot().Workload(uid(1)), addrs); d != "" {
		t.Errorf("the last good version did not stay (-want +got):\n%s", d)
	}
}

// BenchmarkRefresh is what one changed workload costs the server in a large mesh, whatever the number of
// its clients.
func BenchmarkRefresh(b *testing.B) {
	for _, n := range []int{2000, 100000} {
		b.Run(fmt.Sprint(n), func(b *testing.B) {
			store := mesh.NewStore()
			store.Apply(manyWorkloads(n)...)
			s := NewServer(store, nil, "")
			s.hub.refresh(store)
			for i := 0; b.Loop(); i++ {
				w := *testWorkload(1)
				w.Node = fmt.Sprint(i)
				store.Apply(mesh.PutWorkload{Workload: &w})
				s.hub.refresh(store)
			}
		})
	}
}
