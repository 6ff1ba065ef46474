// SPDX-License-Identifier: Apache-2.0

package removal

import (
	"context"
	"errors"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/client-go/dynamic/fake"
	kubetesting "k8s.io/client-go/testing"
)

var (
	authorizations = judged[0]
	authentication = judged[1]
)

// policies is an API that has Istio's kinds, with these objects.
func policies(t *testing.T, objects ...*unstructured.Unstructured) *fake.FakeDynamicClient {
	t.Helper()
	all := make([]runtime.Object, 0, len(objects))
	for _, o := range objects {
		all = append(all, o)
	}
	return fake.NewSimpleDynamicClientWithCustomListKinds(runtime.NewScheme(), map[schema.GroupVersionResource]string{
		authorizations: "AuthorizationPolicyList", authentication: "PeerAuthenticationList",
	}, all...)
}

func policy(kind, name string, status map[string]any) *unstructured.Unstructured {
	o := &unstructured.Unstructured{Object: map[string]any{
		"apiVersion": "security.istio.io/v1", "kind": kind,
		"metadata": map[string]any{"namespace": "shop", "name": name},
		"spec":     map[string]any{"selector": map[string]any{}},
	}}
	if status != nil {
		o.Object["status"] = status
	}
	return o
}

// refused is the status of a policy with these conditions.
func refused(types ...string) map[string]any {
	var all []any
	for _, t := range types {
		all = append(all, map[string]any{"type": t, "status": "False", "reason": "Invalid"})
	}
	return map[string]any{"conditions": all}
}

// removed runs a removal and returns what it said.
func removed(t *testing.T, d *fake.FakeDynamicClient) (string, error) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 5*time.Second)
	defer cancel()
	var said strings.Builder
	_, err := Run(ctx, Options{Client: installed(node("a", corev1.ConditionTrue)), Dynamic: d, Progress: &said})
	return said.String(), err
}

func statusOf(t *testing.T, d *fake.FakeDynamicClient, r schema.GroupVersionResource, name string) any {
	t.Helper()
	o, err := d.Resource(r).Namespace("shop").Get(t.Context(), name, metav1.GetOptions{})
	if err != nil {
		t.Fatal(err)
	}
	return o.Object["status"]
}

// writes are the objects whose status was written, in order.
func writes(d *fake.FakeDynamicClient) []string {
	var out []string
	for _, a := range d.Actions() {
		if u, ok := a.(kubetesting.UpdateAction); ok && a.GetSubresource() == "status" {
			out = append(out, u.GetObject().(*unstructured.Unstructured).GetName())
		}
	}
	return out
}

func TestConditionsGo(t *testing.T) {
	with := func(status map[string]any, field string, value any) map[string]any {
		status[field] = value
		return status
	}
	for _, tt := range []struct {
		name         string
		status, want map[string]any
	}{
		{"ours alone", refused("warren.dev/Accepted"), nil},
		{"of each type", refused("warren.dev/Accepted", "warren.dev/Applied", "warren.dev/Older"), nil},
		{"among others'", refused("Reconciled", "warren.dev/Accepted", "example.com/warren.dev"), refused("Reconciled", "example.com/warren.dev")},
		{"beside others' fields", with(refused("warren.dev/Accepted"), "observedGeneration", int64(3)), map[string]any{"observedGeneration": int64(3)}},
		{"others' alone", refused("Reconciled"), refused("Reconciled")},
		{"an empty list", map[string]any{"conditions": []any{}}, map[string]any{"conditions": []any{}}},
		{"no list", map[string]any{"conditions": "none"}, map[string]any{"conditions": "none"}},
		{"none", nil, nil},
	} {
		t.Run(tt.name, func(t *testing.T) {
			o := policy("AuthorizationPolicy", "p", tt.status)
			want := policy("AuthorizationPolicy", "p", tt.want)
			changes := !cmp.Equal(tt.status, tt.want)
			if changed := dropConditions(o); changed != changes {
				t.Errorf("changed: %t, want %t", changed, changes)
			}
			if diff := cmp.Diff(want.Object, o.Object); diff != "" {
				t.Errorf("(-want +got)\n%s", diff)
			}
		})
	}
}

func TestConditionsOfEachKindGoAfterControl(t *testing.T) {
	d := policies(t,
		policy("AuthorizationPolicy", "bad", refused("Reconciled", "warren.dev/Accepted")), policy("AuthorizationPolicy", "good", refused("Reconciled")),
		policy("PeerAuthentication", "odd", refused("warren.dev/Accepted")))
	c := installed(node("a", corev1.ConditionTrue))
	d.PrependReactor("update", "*", func(kubetesting.Action) (bool, runtime.Object, error) {
		if !slices.Contains(actions(c), "delete deployments warren-control") {
			t.Error("control is there yet, and would write them again")
		}
		return false, nil, nil
	})
	if _, err := Run(t.Context(), Options{Client: c, Dynamic: d}); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff([]string{"bad", "odd"}, writes(d)); diff != "" {
		t.Errorf("written (-want +got)\n%s", diff)
	}
	if diff := cmp.Diff(any(refused("Reconciled")), statusOf(t, d, authorizations, "bad")); diff != "" {
		t.Errorf("(-want +got)\n%s", diff)
	}
	if s := statusOf(t, d, authentication, "odd"); s != nil {
		t.Errorf("status of the PeerAuthentication: %v", s)
	}
}

func TestConditionsOfAKindThatIsNotThere(t *testing.T) {
	d := policies(t, policy("PeerAuthentication", "odd", refused("warren.dev/Accepted")))
	d.PrependReactor("list", authorizations.Resource, func(kubetesting.Action) (bool, runtime.Object, error) {
		return true, nil, apierrors.NewNotFound(authorizations.GroupResource(), "")
	})
	if _, err := removed(t, d); err != nil {
		t.Fatal(err)
	}
	if s := statusOf(t, d, authentication, "odd"); s != nil {
		t.Errorf("status of the other kind's object: %v", s)
	}
}

// TestConditionsOfBusyObjects has somebody write between our look and our write: theirs stays, ours goes.
func TestConditionsOfBusyObjects(t *testing.T) {
	d := policies(t, policy("AuthorizationPolicy", "bad", refused("warren.dev/Accepted")))
	theirs := policy("AuthorizationPolicy", "bad", refused("warren.dev/Accepted", "Reconciled"))
	conflicts := 0
	d.PrependReactor("update", authorizations.Resource, func(kubetesting.Action) (bool, runtime.Object, error) {
		if conflicts++; conflicts > 1 {
			return false, nil, nil
		}
		if err := d.Tracker().Update(authorizations, theirs, "shop"); err != nil {
			t.Error(err)
		}
		return true, nil, apierrors.NewConflict(authorizations.GroupResource(), "bad", errors.New("the object has been modified"))
	})
	said, err := removed(t, d)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(any(refused("Reconciled")), statusOf(t, d, authorizations, "bad")); diff != "" {
		t.Errorf("(-want +got)\n%s", diff)
	}
	if !strings.Contains(said, "took conditions off 1 policies") {
		t.Errorf("said %q", said)
	}
}

// TestConditionsOfALongList: what lies behind a page that is no longer to be had is looked for again.
func TestConditionsOfALongList(t *testing.T) {
	d := policies(t, policy("AuthorizationPolicy", "bad", refused("warren.dev/Accepted")))
	lists := 0
	d.PrependReactor("list", authorizations.Resource, func(kubetesting.Action) (bool, runtime.Object, error) {
		if lists++; lists == 1 {
			return true, nil, apierrors.NewResourceExpired("the continue token is too old")
		}
		return false, nil, nil
	})
	if _, err := removed(t, d); err != nil {
		t.Fatal(err)
	}
	if s := statusOf(t, d, authorizations, "bad"); s != nil {
		t.Errorf("status: %v", s)
	}
}

func TestConditionsThatCanNotBeTaken(t *testing.T) {
	fails := map[string]error{
		"bad":  apierrors.NewForbidden(authorizations.GroupResource(), "bad", errors.New("not yours")),
		"gone": apierrors.NewNotFound(authorizations.GroupResource(), "gone"),
	}
	d := policies(t, policy("AuthorizationPolicy", "bad", refused("warren.dev/Accepted")),
		policy("AuthorizationPolicy", "gone", refused("warren.dev/Accepted")), policy("AuthorizationPolicy", "next", refused("warren.dev/Accepted")))
	d.PrependReactor("update", authorizations.Resource, func(a kubetesting.Action) (bool, runtime.Object, error) {
		err := fails[a.(kubetesting.UpdateAction).GetObject().(*unstructured.Unstructured).GetName()]
		return err != nil, nil, err
	})
	_, err := removed(t, d)
	if err == nil || !strings.Contains(err.Error(), "take conditions off authorizationpolicies shop/bad: ") || !strings.Contains(err.Error(), "not yours") {
		t.Errorf("got %v", err)
	}
	if err != nil && strings.Contains(err.Error(), "shop/gone") {
		t.Errorf("an object that is gone: %v", err)
	}
	if s := statusOf(t, d, authorizations, "next"); s != nil {
		t.Errorf("the next one was left: %v", s)
	}
}
