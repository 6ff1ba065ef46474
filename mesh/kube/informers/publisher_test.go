// SPDX-License-Identifier: Apache-2.0

package informers

import (
	"context"
	"encoding/json"
	"io"
	"net/http"
	"testing"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"

	"github.com/warren-mesh/warren/mesh"
	"github.com/warren-mesh/warren/mesh/kube"
	"github.com/warren-mesh/warren/tests/kubeapi"
)

func annotation(s *kubeapi.Server, pod string) string {
	v, _, _ := unstructured.NestedString(s.Get("v1/pods", "shop", pod), "metadata", "annotations", kube.KeyCaptured)
	return v
}

func publisher(t *testing.T, s *kubeapi.Server) *Publisher {
	t.Helper()
	p, err := NewPublisher(s.Client(), "warren-agent", "a", nil)
	if err != nil {
		t.Fatal(err)
	}
	return p
}

func TestPublishCaptured(t *testing.T) {
	s := kubeapi.Start(t)
	world(s)
	p := publisher(t, s)
	name := mesh.Name{Namespace: "shop", Name: "cart-1"}
	for _, tt := range []struct {
		uid, value, want string
		events           int
	}{
		{"uid-cart-1", "true", "true", 1},
		{"uid-of-another", "NetnsNotFound", "true", 1},
		{"uid-cart-1", "HostNetwork", "HostNetwork", 1},
		{"uid-cart-1", "NetnsNotFound", "NetnsNotFound", 2},
		{"uid-cart-1", "", "", 2},
	} {
		if err := p.PublishCaptured(t.Context(), name, tt.uid, tt.value); err != nil {
			t.Fatalf("%+v: %v", tt, err)
		}
		if got := annotation(s, "cart-1"); got != tt.want {
			t.Errorf("%+v: annotation %q", tt, got)
		}
		if got := len(s.All("v1/events")); got != tt.events {
			t.Errorf("%+v: %d events", tt, got)
		}
	}
	e := s.All("v1/events")[0]
	if uid, _, _ := unstructured.NestedString(e, "involvedObject", "uid"); uid != "uid-cart-1" {
		t.Errorf("an Event about uid %q", uid)
	}
	if err := p.PublishCaptured(t.Context(), mesh.Name{Namespace: "shop", Name: "gone"}, "uid", "true"); err != nil {
		t.Errorf("a pod that is gone: %v", err)
	}
	s.Down()
	if err := p.PublishCaptured(t.Context(), name, "uid-cart-1", "true"); err == nil {
		t.Error("a server that is away took it")
	}
}

// A busy pod is no other pod: what could not be written has to be tried again.
func TestPublishCapturedOfABusyPod(t *testing.T) {
	s := kubeapi.Start(t)
	world(s)
	for message, want := range map[string]bool{
		`Operation cannot be fulfilled on pods "cart-1": the object has been modified; please apply your changes to the latest version and try again`:                                   true,
		`Operation cannot be fulfilled on pods "cart-1": StorageError: invalid object, Code: 4, AdditionalErrorMsg: Precondition failed: UID in precondition: a, UID in object meta: b`: false,
	} {
		s.Handle("/api/v1/namespaces/shop/pods/cart-1", func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Content-Type", "application/json")
			w.WriteHeader(http.StatusConflict)
			_ = json.NewEncoder(w).Encode(metav1.Status{TypeMeta: metav1.TypeMeta{Kind: "Status", APIVersion: "v1"}, Status: "Failure", Reason: metav1.StatusReasonConflict, Code: http.StatusConflict, Message: message})
		})
		err := publisher(t, s).PublishCaptured(t.Context(), mesh.Name{Namespace: "shop", Name: "cart-1"}, "uid-cart-1", "true")
		if (err != nil) != want {
			t.Errorf("%q: %v", message, err)
		}
	}
}

func TestPublishCondition(t *testing.T) {
	s := kubeapi.Start(t)
	installPolicies(s)
	world(s)
	o := deny("no", map[string]any{"namespaces": []any{"x"}})
	o["status"] = map[string]any{"conditions": []any{map[string]any{"type": "Others", "status": "True"}}}
	s.PutMap(authz, o)
	p := publisher(t, s)
	refused := kube.Condition{Type: kube.ConditionAccepted, Reason: kube.ReasonInvalid, Message: "no good"}
	for range 2 { // the second changes nothing
		if err := p.PublishCondition(t.Context(), "AuthorizationPolicy shop/no", refused); err != nil {
			t.Fatal(err)
		}
	}
	list, _, _ := unstructured.NestedSlice(s.Get(authz, "shop", "no"), "status", "conditions")
	if len(list) != 2 {
		t.Fatalf("conditions: %v", list)
	}
	if c := list[1].(map[string]any); c["type"] != "warren.dev/Accepted" || c["status"] != "False" || c["message"] != "no good" {
		t.Errorf("condition: %v", c)
	}
	if n := s.Requests("put " + authz); n != 1 {
		t.Errorf("%d writes, want 1", n)
	}
	if err := p.PublishCondition(t.Context(), "Service shop/cart", refused); err != nil {
		t.Fatal(err)
	}
	if err := p.PublishCondition(t.Context(), "Service shop/gone", refused); err != nil {
		t.Errorf("an object that is gone: %v", err)
	}
	if err := p.PublishCondition(t.Context(), "Nothing", refused); err == nil {
		t.Error("no object, and no error")
	}
	if got := len(s.All("v1/events")); got != 1 {
		t.Errorf("%d events, want the service's", got)
	}
	s.Handle("/api/v1/namespaces/shop/services/cart", func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "application/json")
		w.WriteHeader(http.StatusForbidden)
		_, _ = io.WriteString(w, `{"kind":"Status","apiVersion":"v1","status":"Failure","reason":"Forbidden","code":403}`)
	})
	if err := p.PublishCondition(t.Context(), "Service shop/cart", refused); err != nil {
		t.Errorf("of an object that may not be read: %v", err)
	}
	if got := len(s.All("v1/events")); got != 2 {
		t.Errorf("%d events, want one more of the service", got)
	}
}

// Of several processes one tells authors what was refused, and the next takes up where the last one ended.
func TestProblemsArePublishedByOneAfterTheOther(t *testing.T) {
	s := kubeapi.Start(t)
	installPolicies(s)
	world(s)
	s.PutMap(authz, deny("bad", map[string]any{"namspaces": []any{"x"}}))
	r := follow(t, s)
	r.synced(t)
	status := func() string {
		list, _, _ := unstructured.NestedSlice(s.Get(authz, "shop", "bad"), "status", "conditions")
		if len(list) == 0 {
			return ""
		}
		v, _ := list[0].(map[string]any)["status"].(string)
		return v
	}
	lead := func() func() {
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan error, 1)
		go func() { done <- r.PublishProblems(ctx, publisher(t, s)) }()
		return func() { cancel(); <-done }
	}
	stop := lead()
	s.Wait("it is refused", func() bool { return status() == "False" })
	eventually(t, "our own word comes back", func() bool { return len(r.board.conditions()) == 1 })
	stop()
	// Corrected while nobody writes: the condition of before stands until somebody does again.
	o := s.Get(authz, "shop", "bad")
	fixed := deny("bad", map[string]any{"namespaces": []any{"x"}})
	fixed["status"] = o["status"]
	s.PutMap(authz, fixed)
	r.wait(t, "the corrected policy", hasPolicy("bad"))
	stop = lead()
	defer stop()
	s.Wait("it is in force", func() bool { return status() == "True" })
}
