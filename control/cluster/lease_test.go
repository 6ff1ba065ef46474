// SPDX-License-Identifier: Apache-2.0

package cluster

import (
	"context"
	"errors"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/leaderelection/resourcelock"

	"github.com/warren-mesh/warren/mesh/kube/apiserver"
	"github.com/warren-mesh/warren/tests/kubeapi"
)

// timed is an election whose clocks a test turns, in nanoseconds after now.
func timed(t *testing.T, s *kubeapi.Server, name string) (e *Election, mono, wall *atomic.Int64) {
	t.Helper()
	e, err := NewElection(s.Client(), "warren-system", name, discard)
	if err != nil {
		t.Fatal(err)
	}
	start := time.Now()
	mono, wall = new(atomic.Int64), new(atomic.Int64)
	e.lease.now = func() time.Time { return start.Add(time.Duration(mono.Load())) }
	e.lease.wall = func() time.Time { return start.Round(0).Add(time.Duration(wall.Load())) }
	return e, mono, wall
}

// record is what a replica writes into the lease.
func record(l *lease) resourcelock.LeaderElectionRecord {
	return resourcelock.LeaderElectionRecord{HolderIdentity: l.Identity(), LeaseDurationSeconds: 15}
}

func holder(s *kubeapi.Server) string {
	v, _, _ := unstructured.NestedString(s.Get("coordination.k8s.io/v1/leases", "warren-system", LeaseName), "spec", "holderIdentity")
	return v
}

func TestHowLongALeaseIsGood(t *testing.T) {
	e, mono, wall := timed(t, kubeapi.Start(t), "a")
	l := e.lease
	if l.left(l.current()) > 0 {
		t.Error("good before it was had")
	}
	if err := l.Create(t.Context(), record(l)); err != nil {
		t.Fatal(err)
	}
	first := l.current()
	for _, tt := range []struct {
		name       string
		mono, wall time.Duration
		want       time.Duration
	}{
		{"at once", 0, 0, renewDeadline},
		{"in time", 4 * time.Second, 4 * time.Second, renewDeadline - 4*time.Second},
		{"late", renewDeadline, renewDeadline, 0},
		{"after the machine stood still", time.Second, renewDeadline + time.Second, -time.Second},
		{"the wall clock was set back", 4 * time.Second, -time.Hour, renewDeadline - 4*time.Second},
	} {
		mono.Store(int64(tt.mono))
		wall.Store(int64(tt.wall))
		if got := l.left(first); got != tt.want {
			t.Errorf("%s: good for %v, want %v", tt.name, got, tt.want)
		}
	}
	mono.Store(int64(time.Second))
	wall.Store(int64(time.Second))
	if err := l.Update(t.Context(), record(l)); err != nil {
		t.Fatal(err)
	}
	if l.current() != first || l.left(first) != renewDeadline {
		t.Errorf("renewed in time: tenure %d, good for %v", l.current(), l.left(first))
	}
	mono.Store(int64(time.Minute))
	if err := l.Update(t.Context(), record(l)); err != nil {
		t.Fatal(err)
	}
	if l.left(first) > 0 || l.left(l.current()) <= 0 {
		t.Error("a tenure goes on over a gap")
	}
}

// slow is a lock whose writes take their time.
type slow struct {
	resourcelock.Interface
	takes func()
}

func (s slow) Update(ctx context.Context, r resourcelock.LeaderElectionRecord) error {
	defer s.takes()
	return s.Interface.Update(ctx, r)
}

// Others count from when the server has a renewal, which is after it was sent, and may be long before it is answered.
func TestALeaseCountsFromWhenARenewalWasSent(t *testing.T) {
	e, mono, _ := timed(t, kubeapi.Start(t), "a")
	l := e.lease
	if err := l.Create(t.Context(), record(l)); err != nil {
		t.Fatal(err)
	}
	l.Interface = slow{l.Interface, func() { mono.Add(int64(4 * time.Second)) }}
	if err := l.Update(t.Context(), record(l)); err != nil {
		t.Fatal(err)
	}
	if got := l.left(l.current()); got != renewDeadline-4*time.Second {
		t.Errorf("good for %v after an answer that took 4 s", got)
	}
}

func TestAnothersLeaseIsNotReleased(t *testing.T) {
	s := kubeapi.Start(t)
	a, _, _ := timed(t, s, "a")
	b, _, _ := timed(t, s, "b")
	if err := a.lease.Create(t.Context(), record(a.lease)); err != nil {
		t.Fatal(err)
	}
	if _, _, err := b.lease.Get(t.Context()); err != nil {
		t.Fatal(err)
	}
	if err := b.lease.Update(t.Context(), record(b.lease)); err != nil {
		t.Fatal(err)
	}
	if _, _, err := a.lease.Get(t.Context()); err != nil { // as client-go does first
		t.Fatal(err)
	}
	if a.lease.left(a.lease.current()) > 0 {
		t.Error("good, though another has it")
	}
	if err := a.lease.Update(t.Context(), resourcelock.LeaderElectionRecord{LeaseDurationSeconds: 1}); !errors.Is(err, errNotOurs) {
		t.Errorf("released: %v", err)
	}
	if got := holder(s); got != b.lease.Identity() {
		t.Errorf("the lease is %q's, want b's", got)
	}
	if _, _, err := b.lease.Get(t.Context()); err != nil {
		t.Fatal(err)
	}
	tenure := b.lease.current()
	if err := b.lease.Update(t.Context(), resourcelock.LeaderElectionRecord{LeaseDurationSeconds: 1}); err != nil || holder(s) != "" {
		t.Errorf("its own is not released: %v, it is %q's", err, holder(s))
	}
	if b.lease.left(tenure) > 0 {
		t.Error("good after it was released")
	}
	s.Delete("coordination.k8s.io/v1/leases", "warren-system", LeaseName)
	if err := b.lease.Create(t.Context(), record(b.lease)); err != nil {
		t.Fatal(err)
	}
	s.Delete("coordination.k8s.io/v1/leases", "warren-system", LeaseName)
	_, _, _ = b.lease.Get(t.Context())
	if b.lease.left(b.lease.current()) > 0 {
		t.Error("good, though it is gone")
	}
}

// What runs in a term has to end with the lease, not with the requests that client-go waits for meanwhile.
func TestTheWritersEndWithTheLease(t *testing.T) {
	for name, late := range map[string]struct{ mono, wall time.Duration }{
		"not renewed": {renewDeadline, renewDeadline}, "the machine stood still": {0, renewDeadline},
	} {
		t.Run(name, func(t *testing.T) {
			e, mono, wall := timed(t, kubeapi.Start(t), "a")
			e.config.RetryPeriod = time.Millisecond
			if err := e.lease.Create(t.Context(), record(e.lease)); err != nil {
				t.Fatal(err)
			}
			ctx, end := context.WithCancel(t.Context())
			defer end()
			writes, ended := make(chan struct{}), make(chan struct{})
			go func() {
				defer close(ended)
				e.lead(ctx, end, func(ctx context.Context) { close(writes); <-ctx.Done() })
			}()
			<-writes
			if !e.Leading() {
				t.Error("it does not lead")
			}
			mono.Store(int64(late.mono))
			wall.Store(int64(late.wall))
			if e.Leading() {
				t.Error("it leads on")
			}
			select {
			case <-ended:
			case <-time.After(10 * time.Second):
				t.Error("it writes on")
			}
		})
	}
}

// way is one replica's way to the server, which can hang: requests wait until it is mended.
type way struct {
	s      *kubeapi.Server
	addr   string
	hung   atomic.Int32 // requests so far, and those that came through
	passed atomic.Int32

	mu     sync.Mutex
	mended chan struct{} // nil while it does not hang
	stuck  []chan struct{}
}

func newWay(t *testing.T, s *kubeapi.Server) *way {
	t.Helper()
	w := &way{s: s}
	srv := httptest.NewServer(w)
	w.addr = srv.URL
	t.Cleanup(func() { w.mend(); srv.Close() })
	return w
}

func (w *way) ServeHTTP(rw http.ResponseWriter, r *http.Request) {
	w.mu.Lock()
	mended := w.mended
	w.mu.Unlock()
	if mended != nil {
		w.hung.Add(1)
		<-mended
	}
	w.s.ServeHTTP(rw, r)
	w.passed.Add(1)
}

func (w *way) hang() {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.mended = make(chan struct{})
}

// recover lets new requests through; those that hang stay so.
func (w *way) recover() {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.stuck, w.mended = append(w.stuck, w.mended), nil
}

func (w *way) mend() {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.mended != nil {
		close(w.mended)
		w.mended = nil
	}
	for _, c := range w.stuck {
		close(c)
	}
	w.stuck = nil
}

// Client is a client that goes this way.
func (w *way) Client() *apiserver.Client {
	c, err := apiserver.New(&rest.Config{Host: w.addr, QPS: -1})
	if err != nil {
		panic(err)
	}
	return c
}

// A replica whose requests hang stops writing before another begins, and leaves the other's lease alone when they come
// through after all.
func TestAReplicaWhoseRequestsHang(t *testing.T) {
	s := kubeapi.Start(t)
	w := newWay(t, s)
	a, _, stopA := replica(t, w, "a")
	defer stopA()
	eventually(t, "a leads", a.Leading)
	b, _, stopB := replica(t, s, "b")
	defer stopB()
	var two atomic.Bool
	stop, watched := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(watched)
		for {
			// b first: while it leads, a must not any more.
			if b.Leading() && a.Leading() {
				two.Store(true)
			}
			select {
			case <-stop:
				return
			case <-time.After(time.Millisecond):
			}
		}
	}()
	w.hang()
	eventually(t, "b leads", b.Leading)
	passed := w.passed.Load()
	w.mend()
	eventually(t, "a asked again", func() bool { return w.passed.Load() >= passed+8 })
	if got := holder(s); !strings.HasPrefix(got, "b-") || !b.Leading() || a.Leading() {
		t.Errorf("the lease is %q's; a leads: %v, b leads: %v", got, a.Leading(), b.Leading())
	}
	close(stop)
	<-watched
	if two.Load() {
		t.Error("two wrote at a time")
	}
}

func TestOneHangingRequestDoesNotCostTheLease(t *testing.T) {
	w := newWay(t, kubeapi.Start(t))
	e, err := NewElection(w.Client(), "warren-system", "a", discard)
	if err != nil {
		t.Fatal(err)
	}
	e.pace(6*time.Second, 3*time.Second, 200*time.Millisecond)
	ended := make(chan struct{})
	go func() {
		_ = e.Run(t.Context(), func(ctx context.Context) {
			<-ctx.Done()
			if t.Context().Err() == nil {
				close(ended)
			}
		})
	}()
	eventually(t, "it leads", e.Leading)
	w.hang()
	eventually(t, "a request hangs", func() bool { return w.hung.Load() > 0 })
	w.recover()
	passed := w.passed.Load()
	eventually(t, "the lease was renewed", func() bool { return w.passed.Load() >= passed+3 })
	select {
	case <-ended:
		t.Error("the term ended")
	default:
	}
}
