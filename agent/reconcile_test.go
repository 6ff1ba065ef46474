// SPDX-License-Identifier: Apache-2.0

package agent

import (
	"context"
	"errors"
	"log/slog"
	"net/netip"
	"path/filepath"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/types"

	"github.com/warren-mesh/warren/mesh"
	"github.com/warren-mesh/warren/mesh/broker"
	"github.com/warren-mesh/warren/mesh/kube"
	"github.com/warren-mesh/warren/tests/testutil"
)

// objects is a source that a test fills.
type objects struct {
	mu       sync.Mutex
	pods     []kube.LocalPod
	problems []kube.Problem
	changed  chan struct{}
}

func (o *objects) Run(context.Context) error { return nil }
func (o *objects) Store() *mesh.Store        { return mesh.NewStore() }
func (o *objects) Synced() <-chan struct{}   { return nil }

func (o *objects) LocalPods() ([]kube.LocalPod, <-chan struct{}) {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.pods, o.changed
}

func (o *objects) Standing() kube.Namespaces { return kube.Namespaces{Outside: []string{"outside"}} }

func (o *objects) Problems() []kube.Problem {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.problems
}

func (o *objects) mend(p kube.LocalPod) {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.pods, o.problems = append(o.pods, p), nil
}

func (o *objects) tell() {
	o.mu.Lock()
	defer o.mu.Unlock()
	close(o.changed)
	o.changed = make(chan struct{})
}

// An agent that starts while a file is broken does not know which pods it misses. The broker must not end their
// capture, which is what a complete list without them says.
func TestBrokenFileAtStartEndsNoCapture(t *testing.T) {
	local := func(uid string) kube.LocalPod {
		return kube.LocalPod{UID: uid, Namespace: "shop", Name: uid, Enrolled: true, Addresses: []netip.Addr{netip.MustParseAddr("10.0.0.1")}}
	}
	dir := t.TempDir()
	l, err := broker.Listen(filepath.Join(dir, broker.SocketName("broker", "1", "")))
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	src := &objects{
		pods: []kube.LocalPod{local("read")}, changed: make(chan struct{}),
		problems: []kube.Problem{{Source: "shop.yaml", Err: errors.New("line 3: not YAML")}},
	}
	a, err := New(Config{Node: "n", RunDir: dir, Log: slog.New(slog.DiscardHandler)}, src, &page{last: map[mesh.Name]string{}})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	var wg sync.WaitGroup
	defer wg.Wait()
	defer cancel()
	wg.Go(func() { _ = a.broker.Run(ctx) })
	wg.Go(func() { _ = a.reconcile(ctx) })
	uc, err := l.AcceptUnix()
	if err != nil {
		t.Fatal(err)
	}
	c := broker.NewConn(uc)
	defer c.Close()
	_ = uc.SetReadDeadline(time.Now().Add(10 * time.Second))
	updates := map[string]bool{}
	for {
		m, _, err := c.Recv()
		if err != nil {
			t.Fatal(err)
		}
		switch m.Type {
		case broker.TypeHello:
			if err := c.Send(broker.TypeHello, broker.Hello{Role: "broker"}); err != nil {
				t.Fatal(err)
			}
		case broker.TypeCaptureUpdate:
			var u broker.CaptureUpdate
			if err := m.Into(&u); err != nil {
				t.Fatal(err)
			}
			updates[u.UID] = true
			if u.UID == "read" {
				time.AfterFunc(100*time.Millisecond, func() { src.mend(local("mended")) })
			}
		case broker.TypeCaptureSync:
			if !updates["read"] || !updates["mended"] {
				t.Errorf("the list is called complete with %v", updates)
			}
			return
		}
	}
}

// old is objects of an earlier process until the API server is back.
type old struct {
	*objects
	prometheus.Collector
	stale atomic.Bool
}

func (o *old) Status() kube.SourceStatus {
	return kube.SourceStatus{Synced: true, Stale: o.stale.Load()}
}

// A snapshot on disk does not have the pods that were captured after it was written. An agent that starts from it ends
// neither their capture nor ztunnel's serving them.
func TestStaleObjectsEndNoCapture(t *testing.T) {
	src := &old{objects: &objects{pods: []kube.LocalPod{enrolledPod()}, changed: make(chan struct{})}, Collector: prometheus.NewCounter(prometheus.CounterOpts{Name: "x"})}
	src.stale.Store(true)
	r, _ := newRigOver(t, "", src)
	for n := 1; n <= 2; n++ { // what is told of the second pod comes after what follows the first
		testutil.Eventually(t, 10*time.Second, "the pods that are known are told", func() bool { updates, _, _ := r.told(); return len(updates) == n })
		another := enrolledPod()
		another.UID, another.Name = "u2", "web-2"
		src.mend(another)
		src.tell()
	}
	if r.synced() {
		t.Error("pods of an old snapshot are called all there are")
	}
	src.stale.Store(false)
	testutil.Eventually(t, 10*time.Second, "the list is complete once the API server is back", r.synced)
}

func TestUnsure(t *testing.T) {
	for _, tt := range []struct {
		object, node string
		want         bool
	}{
		{"", "", true}, {"Pod shop/db", "n", true}, {"Pod shop/db", "", true}, {"Pod shop/db", "elsewhere", false},
		{"Namespace shop", "", false}, {"PodDisruptionBudget shop/db", "", false}, {"Service shop/db", "", false},
	} {
		p := kube.Problem{Object: tt.object, Node: tt.node}
		if got := unsure([]kube.Problem{p}, "n"); got != tt.want {
			t.Errorf("%q on %q: %v", tt.object, tt.node, got)
		}
		p.Partial = true
		if unsure([]kube.Problem{p}, "n") {
			t.Errorf("%q: a wrong field of a known object", tt.object)
		}
	}
}

// A word about enrolment that is wrong anywhere holds up no agent that starts: the pods it is about are known.
func TestUnreadableEnrolmentHoldsUpNothing(t *testing.T) {
	tr := kube.NewTranslator(kube.Config{Node: "n"})
	wrong := map[string]string{kube.KeyMesh: "true"}
	object := func(name string, captured string, labels map[string]string) *corev1.Pod {
		return &corev1.Pod{
			ObjectMeta: metav1.ObjectMeta{Namespace: "shop", Name: name, UID: types.UID(name), Labels: labels, Annotations: map[string]string{kube.KeyCaptured: captured}},
			Spec:       corev1.PodSpec{NodeName: "n"},
			Status:     corev1.PodStatus{Phase: corev1.PodRunning, PodIP: "10.0.0.1"},
		}
	}
	var evs []kube.Event
	for _, o := range []runtime.Object{
		&corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: "shop", Labels: wrong}},
		object("captured", kube.CapturedTrue, nil), object("wrong", kube.CapturedTrue, wrong), object("new", "", wrong), object("outside", "", nil),
	} {
		evs = append(evs, kube.Event{Object: o})
	}
	tr.Apply(evs)
	r, _ := newRigOver(t, "", &objects{pods: tr.Synced().LocalPods, problems: tr.Problems(), changed: make(chan struct{})})
	testutil.Eventually(t, 10*time.Second, "the list is complete", r.synced)
	updates, _, deleted := r.told()
	var named []string
	for _, u := range updates {
		named = append(named, u.UID)
	}
	if slices.Sort(named); !slices.Equal(named, []string{"captured", "wrong"}) || len(deleted) > 0 {
		t.Errorf("the broker was told to hold %v and to let go of %v", named, deleted)
	}
}

// What another wrote over this agent's word is taken notice of; what comes with it in the object is no word of another.
func TestObserveReadsTheAnnotation(t *testing.T) {
	a, err := New(Config{Node: "n", RunDir: t.TempDir(), Log: slog.New(slog.DiscardHandler)}, &objects{}, &page{})
	if err != nil {
		t.Fatal(err)
	}
	see := func(published string) *tracked {
		p := enrolledPod()
		p.Published = published
		a.observe([]kube.LocalPod{p})
		return a.pods[p.UID]
	}
	tr := see("")
	tr.published, tr.said = captured, captured // and not back yet
	if tr := see(""); tr.published != captured {
		t.Errorf("an object that lags behind took %q back", captured)
	}
	see(captured)
	if tr := see(""); tr.published != "" || tr.correctAt.IsZero() {
		t.Errorf("the annotation was removed: %+v", tr)
	}
}
