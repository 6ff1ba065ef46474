// SPDX-License-Identifier: Apache-2.0

package informers

import (
	"fmt"
	"log/slog"
	"net/http"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"

	"github.com/warren-mesh/warren/mesh"
	"github.com/warren-mesh/warren/mesh/kube"
	"github.com/warren-mesh/warren/tests/kubeapi"
)

var cart = mesh.Name{Namespace: "shop", Name: "cart"}

func TestTheMeshIsWhatTheServerSays(t *testing.T) {
	for _, streamed := range []bool{true, false} {
		t.Run(map[bool]string{true: "streamed", false: "listed"}[streamed], func(t *testing.T) {
			s := kubeapi.Start(t)
			installPolicies(s)
			if !streamed {
				s.WithoutStreaming()
			}
			world(s)
			r := follow(t, s)
			r.synced(t)
			snap := r.Store().Snapshot()
			if got := len(snap.Endpoints(cart)); got != 2 {
				t.Errorf("%d endpoints, want 2", got)
			}
			if w := snap.WorkloadByAddr(netip.MustParseAddr("fd00:1::11")); w == nil || w.Name != "cart-1" || w.Zone != "za" || w.WorkloadName != "cart" {
				t.Errorf("by IPv6: %+v", w)
			}
			if v := snap.ServiceByAddr(netip.MustParseAddr("10.2.0.1")); v == nil || v.Ports[0].TargetPort != 8080 {
				t.Errorf("service: %+v", v)
			}
			if c := snap.Config().ClusterCIDRs; len(c) != 5 {
				t.Errorf("cluster ranges %v, want four of nodes and one of services", c)
			}
			pods, _ := r.LocalPods()
			if len(pods) != 1 || pods[0].Name != "cart-1" || !pods[0].Enrolled {
				t.Errorf("this node's pods: %+v", pods)
			}
			if st := r.Status(); !st.Synced || st.Stale {
				t.Errorf("status %+v", st)
			}

			s.Put("v1/pods", pod("cart-3", "a", 13))
			r.wait(t, "a pod comes", func(m *mesh.Snapshot) bool { return m.WorkloadByPod("uid-cart-3") != nil })
			s.Delete("v1/pods", "shop", "cart-1")
			r.wait(t, "a pod goes", func(m *mesh.Snapshot) bool { return m.WorkloadByPod("uid-cart-1") == nil })
			s.PutMap(authz, deny("no", map[string]any{"namespaces": []any{"x"}}))
			r.wait(t, "a policy comes", hasPolicy("no"))
			if n := s.Requests("get v1/pods"); streamed != (n == 0) {
				t.Errorf("%d lists of pods", n)
			}
		})
	}
}

func TestWhatIsNotReadChangesNothing(t *testing.T) {
	s := kubeapi.Start(t)
	world(s)
	r := follow(t, s)
	r.synced(t)
	before := r.Store().Snapshot().Version()
	p := pod("cart-1", "a", 11)
	p.Spec.Containers[0].Image = "registry.example/cart:2"
	p.Annotations["x"] = "y"
	p.Status.Conditions = append(p.Status.Conditions, corev1.PodCondition{Type: "example.com/gate", Status: corev1.ConditionTrue})
	s.Put("v1/pods", p)
	s.Put("v1/namespaces", &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: "later"}}) // another kind, to wait for
	s.Put("v1/pods", pod("cart-9", "b", 19))
	snap := r.wait(t, "the pod after it", func(m *mesh.Snapshot) bool { return m.WorkloadByPod("uid-cart-9") != nil })
	if got := snap.Version() - before; got != 1 {
		t.Errorf("%d steps, want the one of the new pod", got)
	}
}

func TestACutWatchMissesNothing(t *testing.T) {
	for _, expired := range []bool{false, true} {
		t.Run(map[bool]string{true: "its version expired", false: "its version is known"}[expired], func(t *testing.T) {
			s := kubeapi.Start(t)
			world(s)
			r := follow(t, s)
			r.synced(t)
			s.Down()
			s.Put("v1/pods", pod("cart-3", "a", 13))
			s.Delete("v1/pods", "shop", "cart-2")
			if expired {
				s.Expire()
			}
			s.Up()
			r.wait(t, "both changes", func(m *mesh.Snapshot) bool {
				return m.WorkloadByPod("uid-cart-3") != nil && m.WorkloadByPod("uid-cart-2") == nil
			})
			if w := r.Store().Snapshot().WorkloadByPod("uid-cart-1"); w == nil {
				t.Error("the pod that did not change is gone")
			}
		})
	}
}

func TestAMissingKindIsNoObstacle(t *testing.T) {
	s := kubeapi.Start(t)
	world(s)
	s.Uninstall("networking.k8s.io/v1/servicecidrs")
	r := follow(t, s)
	r.synced(t)
	var absent []string
	for _, k := range r.Status().Kinds {
		if k.Absent {
			absent = append(absent, k.Kind)
		}
	}
	if want := []string{"ServiceCIDR", "MeshConfig", "PeerAuthentication", "AuthorizationPolicy"}; !slices.Equal(absent, want) {
		t.Errorf("absent: %v, want %v", absent, want)
	}
	installPolicies(s)
	s.PutMap(authz, deny("no", map[string]any{"namespaces": []any{"x"}}))
	r.wait(t, "the policy of a kind that came later", hasPolicy("no"))

	// A server that forgets the kind for a moment takes no policy away.
	s.Uninstall(authz)
	s.Cut()
	eventually(t, "the absence is noticed", func() bool { return r.Status().Kinds[8].Absent })
	s.Put("v1/pods", pod("cart-9", "b", 19))
	r.wait(t, "a later step", func(m *mesh.Snapshot) bool { return m.WorkloadByPod("uid-cart-9") != nil })
	if !hasPolicy("no")(r.Store().Snapshot()) {
		t.Error("the policy fell away at the first word of its kind's absence")
	}
}

// A kind that may not be read holds everything up: without it the mesh would be another. Who looks finds which, and why.
func TestAForbiddenKindIsNamed(t *testing.T) {
	s := kubeapi.Start(t)
	world(s)
	s.Handle("/api/v1/services", func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "application/json")
		w.WriteHeader(http.StatusForbidden)
		_, _ = w.Write([]byte(`{"kind":"Status","apiVersion":"v1","status":"Failure","reason":"Forbidden","code":403,"message":"services is forbidden: no RBAC policy matched"}`))
	})
	r := follow(t, s, func(c *Config) { c.Patience = 50 * time.Millisecond })
	const want = "Service: services is forbidden: no RBAC policy matched"
	eventually(t, "the kind and the cause are named", func() bool { return r.Status().Waiting() == want })
	eventually(t, "in the log as well", func() bool { return strings.Contains(r.log.String(), `waiting="`+want) })
	if r.Status().Synced {
		t.Error("called synced without the Services")
	}
	s.Handle("/api/v1/services", nil)
	r.synced(t)
	if got := r.Status().Waiting(); got != "" {
		t.Errorf("waiting for %q", got)
	}
}

func TestAKindThatStaysAwayIsGone(t *testing.T) {
	now := time.Unix(1, 0)
	b := newBoard(func() time.Time { return now }, before(""))
	c := b.kind("AuthorizationPolicy")
	if err := c.Replace([]any{&unstructured.Unstructured{Object: deny("no", nil)}}, "1"); err != nil {
		t.Fatal(err)
	}
	notFound := apierrors.NewNotFound(schema.GroupResource{Resource: "authorizationpolicies"}, "")
	for _, tt := range []struct {
		after time.Duration
		err   error
		want  int
	}{{0, notFound, 1}, {absence - time.Second, notFound, 1}, {time.Second, nil, 1}, {time.Second, notFound, 1}, {absence - time.Second, notFound, 1}, {time.Second, notFound, 0}} {
		now = now.Add(tt.after)
		c.answered(t.Context(), tt.err, slog.New(slog.DiscardHandler))
		if len(c.objects) != tt.want {
			t.Fatalf("at %+v: %d objects", tt, len(c.objects))
		}
	}
}

// A change of what is not read reaches neither the Translator nor the disk.
func TestTheSameBytesAreNoEvent(t *testing.T) {
	b := newBoard(time.Now, before(""))
	b.live = true
	c := b.kind("Pod")
	p := pod("cart-1", "a", 11)
	for i, want := range []int{1, 0, 1} {
		p = p.DeepCopy()
		p.Spec.Containers[0].Image = fmt.Sprint("image:", i)
		if i == 2 {
			p.Status.PodIP = "10.1.0.99"
		}
		if err := c.Update(p); err != nil {
			t.Fatal(err)
		}
		evs, _, _ := b.take(false)
		if _, unsaved := b.contents(); len(evs) != want || unsaved != (want > 0) {
			t.Errorf("update %d: %d events, unsaved %v", i, len(evs), unsaved)
		}
	}
}

func TestAPolicyThatCannotBeReadIsOneProblem(t *testing.T) {
	s := kubeapi.Start(t)
	installPolicies(s)
	world(s)
	s.PutMap(authz, deny("bad", map[string]any{"namspaces": []any{"x"}}))
	s.PutMap(authz, deny("good", map[string]any{"namespaces": []any{"x"}}))
	s.PutMap(authz, deny("later", map[string]any{"namespaces": []any{"x"}}))
	r := follow(t, s)
	r.synced(t)
	r.wait(t, "the good one", hasPolicy("good"))
	eventually(t, "the problem", func() bool { return len(r.Problems()) > 0 })
	if ps := r.Problems(); len(ps) != 1 || ps[0].Object != "AuthorizationPolicy shop/bad" || ps[0].Field != "spec.rules[0].from[0].source.namspaces" {
		t.Errorf("problems: %+v", ps)
	}
	deniesAll := func(snap *mesh.Snapshot) bool {
		p := snap.Policy(mesh.Name{Namespace: "shop", Name: "bad"})
		return p != nil && p.Action == mesh.Deny && len(p.Rules) == 1 && len(p.Rules[0].Clauses) == 0
	}
	if !deniesAll(r.Store().Snapshot()) {
		t.Error("a DENY without a last good version lets in whom it may deny")
	}
	s.PutMap(authz, deny("later", map[string]any{"namespaces": "x"}))
	eventually(t, "the second problem", func() bool { return len(r.Problems()) == 2 })
	if !hasPolicy("later")(r.Store().Snapshot()) {
		t.Error("the last good one did not stay")
	}
	s.PutMap(authz, deny("bad", map[string]any{"namespaces": []any{"x"}}))
	r.wait(t, "it is corrected", func(snap *mesh.Snapshot) bool { return hasPolicy("bad")(snap) && !deniesAll(snap) })
	if uid, there := r.UID("AuthorizationPolicy shop/good"); uid == "" || !there {
		t.Errorf("uid %q, there %t: of one that is made anew nobody could tell", uid, there)
	}
	s.Delete(authz, "shop", "later")
	eventually(t, "no problem is left", func() bool { return len(r.Problems()) == 0 })
	if hasPolicy("later")(r.Store().Snapshot()) {
		t.Error("a deleted policy that could not be read stayed")
	}
}

// Every kind of the table has a type for its end and a codec that undoes itself.
func TestKinds(t *testing.T) {
	for _, k := range kinds {
		o := named(k.name, "ns/n")
		if key, err := kube.KeyOf(o); err != nil || key.Kind != k.name || key.Name != "n" {
			t.Errorf("%s: %+v, %v", k.name, key, err)
		}
		if k.conditions {
			continue // written as JSON; see the policies' tests
		}
		trimmed, err := k.trim(o)
		if err != nil {
			t.Fatal(err)
		}
		data, err := k.encode(trimmed)
		if err != nil {
			t.Fatal(err)
		}
		if back, errs := k.decode(data); len(errs) > 0 {
			t.Errorf("%s: %v", k.name, errs)
		} else if again, err := k.encode(back); err != nil || string(again) != string(data) {
			t.Errorf("%s: %q, then %q, %v", k.name, data, again, err)
		}
	}
}
