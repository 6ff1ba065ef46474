// SPDX-License-Identifier: Apache-2.0

package cluster

import (
	"bytes"
	"encoding/json"
	"log/slog"
	"net/http"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/warren-mesh/warren/control/ca"
	"github.com/warren-mesh/warren/mesh"
	"github.com/warren-mesh/warren/tests/kubeapi"
)

// enrolled is a publisher over namespaces with a pod of the mesh each, with a clock that a test turns.
func enrolled(t *testing.T, s *kubeapi.Server, namespaces ...string) (b *Bundle, log *bytes.Buffer, now *time.Time) {
	t.Helper()
	store := mesh.NewStore()
	for _, ns := range namespaces {
		store.Apply(mesh.PutWorkload{Workload: &mesh.Workload{UID: ns, PodUID: ns, Namespace: ns, Name: "pod", Capture: mesh.Captured}})
	}
	log, now = &bytes.Buffer{}, new(time.Time)
	*now = time.Now()
	b = newBundle(t, s, func(cfg *BundleConfig) {
		cfg.Snapshot, cfg.Namespaces = store.Snapshot, func() []string { return append(namespaces, "warren-system") }
		cfg.Log, cfg.Now = slog.New(slog.NewTextHandler(log, nil)), func() time.Time { return *now }
	})
	return b, log, now
}

// refuse answers requests for a path as an admission plugin does that takes no ConfigMap.
func refuse(s *kubeapi.Server, path string) (requests *atomic.Int32) {
	requests = new(atomic.Int32)
	s.Handle(path, func(w http.ResponseWriter, _ *http.Request) {
		requests.Add(1)
		w.Header().Set("Content-Type", "application/json")
		w.WriteHeader(http.StatusForbidden)
		_ = json.NewEncoder(w).Encode(metav1.Status{
			TypeMeta: metav1.TypeMeta{Kind: "Status", APIVersion: "v1"}, Status: metav1.StatusFailure,
			Code: http.StatusForbidden, Reason: metav1.StatusReasonForbidden, Message: "exceeded quota: none",
		})
	})
	return requests
}

// A namespace in which control can't write is its owner's to repair: it costs the others nothing, nor control's
// readiness, which goes by PublishTrust.
func TestANamespaceThatTakesNoRoots(t *testing.T) {
	s := kubeapi.Start(t)
	b, log, now := enrolled(t, s, "broken", "shop")
	const path = "/api/v1/namespaces/broken/configmaps"
	posts := refuse(s, path)
	roots := ca.Trust{Roots: []byte("one")}
	for range 5 {
		publishEverywhere(t, b, roots) // or the test ends
	}
	if rootsIn(s, "warren-system") != "one" || rootsIn(s, "shop") != "one" {
		t.Error("roots did not arrive where nothing is wrong")
	}
	if n := posts.Load(); n != 1 {
		t.Errorf("tried %d times in a moment", n)
	}
	for range 360 { // an hour
		*now = now.Add(copiesInterval)
		publishEverywhere(t, b, roots)
	}
	if n := posts.Load(); n < 10 || n > 40 {
		t.Errorf("tried %d times in an hour", n)
	}
	if n := strings.Count(log.String(), "exceeded quota"); n != 1 || b.copies.failing() != 1 {
		t.Errorf("logged %d times, %d namespaces counted, want 1 and 1:\n%s", n, b.copies.failing(), log)
	}
	s.Handle(path, nil)
	*now = now.Add(copyPatience)
	publishEverywhere(t, b, roots)
	if rootsIn(s, "broken") != "one" || b.copies.failing() != 0 || !strings.Contains(log.String(), "in order again") {
		t.Errorf("not repaired: %d namespaces counted\n%s", b.copies.failing(), log)
	}
}

// New roots are tried at once in a namespace that is being left alone.
func TestNewRootsAreTriedAtOnce(t *testing.T) {
	s := kubeapi.Start(t)
	b, _, _ := enrolled(t, s, "broken")
	posts := refuse(s, "/api/v1/namespaces/broken/configmaps")
	publishEverywhere(t, b, ca.Trust{Roots: []byte("one")})
	publishEverywhere(t, b, ca.Trust{Roots: []byte("two")})
	if n := posts.Load(); n != 2 {
		t.Errorf("tried %d times, want 2", n)
	}
}

// While one namespace's webhook hangs, what nodes read is brought up to date.
func TestASlowNamespaceKeepsNothingBack(t *testing.T) {
	s := kubeapi.Start(t)
	b, _, _ := enrolled(t, s, "shop")
	var hung, given atomic.Int32
	s.Handle("/api/v1/namespaces/shop/configmaps/"+BundleName, func(_ http.ResponseWriter, r *http.Request) {
		hung.Add(1)
		<-r.Context().Done()
		given.Add(1)
	})
	go func() { _ = b.Run(t.Context()) }()
	if err := b.PublishTrust(t.Context(), ca.Trust{Roots: []byte("one")}); err != nil {
		t.Fatal(err)
	}
	eventually(t, "a request hangs", func() bool { return hung.Load() == 1 })
	if err := b.PublishTrust(t.Context(), ca.Trust{Roots: []byte("one"), Revoked: []byte("list")}); err != nil {
		t.Fatal(err)
	}
	if data := s.Get("v1/configmaps", "warren-system", BundleName)["data"].(map[string]any); data[RevokedKey] != "list" {
		t.Errorf("control's own namespace has %v", data)
	}
	if given.Load() > 0 {
		t.Error("publishing waited for the namespace that hangs")
	}
}

// A server that does not answer is no fault of any namespace.
func TestAServerThatIsAwayBlamesNobody(t *testing.T) {
	s := kubeapi.Start(t)
	b, log, now := enrolled(t, s, "bank", "shop")
	publishEverywhere(t, b, ca.Trust{Roots: []byte("one")})
	s.Down()
	*now = now.Add(trusted)
	b.copies.pass(t.Context())
	if b.copies.failing() != 0 || log.Len() > 0 {
		t.Errorf("%d namespaces counted\n%s", b.copies.failing(), log)
	}
}

func TestWhoComesFirst(t *testing.T) {
	s := kubeapi.Start(t)
	b, _, now := enrolled(t, s, "a-failed-late", "b-failed-early", "c-right", "d-stale", "e-new", "f-waits")
	namespaces := b.cfg.Namespaces
	b.copies.cfg.Namespaces = func() []string { return append(namespaces(), "a-left") }
	b.copies.spread(issue{trust: ca.Trust{Roots: []byte("one")}})
	for ns, c := range map[string]copied{
		"a-failed-late":  {want: true, edition: 1, failures: 1, due: now.Add(-time.Second)},
		"b-failed-early": {want: true, edition: 1, failures: 9, due: now.Add(-time.Minute)},
		"f-waits":        {want: true, edition: 1, failures: 1, due: now.Add(time.Second)},
		"c-right":        {want: true, edition: 1, due: now.Add(time.Minute)},
		"d-stale":        {want: true, edition: 0, due: now.Add(time.Minute)},
		"a-left":         {want: true, edition: 1, due: now.Add(time.Minute)},
		"is-gone":        {want: true, edition: 1},
	} {
		b.copies.byNamespace[ns] = c
	}
	var got []string
	_, _, orders := b.copies.orders()
	for _, o := range orders {
		got = append(got, o.namespace)
	}
	if want := []string{"d-stale", "e-new", "a-left", "b-failed-early", "a-failed-late"}; !slices.Equal(got, want) {
		t.Errorf("got %v, want %v", got, want)
	}
	if _, ok := b.copies.byNamespace["is-gone"]; ok {
		t.Error("a namespace that is gone is remembered")
	}
}
