// SPDX-License-Identifier: Apache-2.0

package kube

import (
	"context"
	"errors"
	"log/slog"
	"maps"
	"slices"
	"strings"
	"testing"

	"github.com/warren-mesh/warren/mesh"
)

// failing refuses the first few publications.
type failing struct {
	left int
	got  map[ConditionKey]Condition

	order  []string
	forgot []ConditionKey
}

func (f *failing) PublishCaptured(context.Context, mesh.Name, string, string) error { return nil }

func (f *failing) PublishCondition(_ context.Context, object string, c Condition) error {
	if f.left--; f.left >= 0 {
		return errors.New("not now")
	}
	f.got[ConditionKey{object, c.Type}] = c
	f.order = append(f.order, object+" "+c.Type)
	return nil
}

func (f *failing) ForgetCondition(_ context.Context, object, conditionType string) error {
	if f.left--; f.left >= 0 {
		return errors.New("not now")
	}
	f.forgot = append(f.forgot, ConditionKey{object, conditionType})
	return nil
}

// objects stand as they are told.
type objects struct {
	problems []Problem
	config   MeshConfigState
	gone     map[string]bool
	uids     map[string]string
}

func (o *objects) Problems() []Problem         { return o.problems }
func (o *objects) MeshConfig() MeshConfigState { return o.config }
func (o *objects) UID(object string) (string, bool) {
	return o.uids[object], !o.gone[object]
}

// TestConditionsOfAnObjectMadeAnew: one that was deleted and created again between two looks has no condition yet.
func TestConditionsOfAnObjectMadeAnew(t *testing.T) {
	const x, y = "AuthorizationPolicy a/x", "AuthorizationPolicy a/y"
	f := &failing{got: map[ConditionKey]Condition{}}
	o := &objects{problems: []Problem{{Object: x, Source: "f", Err: errors.New("wrong")}}, uids: map[string]string{x: "1", y: "1"}}
	was := map[ConditionKey]Condition{{y, ConditionAccepted}: {Type: ConditionAccepted, Reason: ReasonInvalid, Message: "f: wrong"}}
	c := Conditions{Publisher: f, Objects: o, Published: was, Log: slog.New(slog.DiscardHandler)}
	published := c.published()
	publish := func(want ...string) {
		t.Helper()
		if f.order = nil; !c.once(t.Context(), published) || !slices.Equal(f.order, want) {
			t.Errorf("published %v, want %v", f.order, want)
		}
	}
	publish(x+" Accepted", y+" Accepted") // y is no longer wrong
	publish()
	o.uids[x] = "2"
	publish(x + " Accepted")
	publish()
	o.uids[y] = "2" // and has nothing to say about the new one
	publish()
	o.problems, o.uids[x] = nil, "3" // made anew, and well
	publish()
	if len(f.forgot) > 0 {
		t.Errorf("forgot %v", f.forgot)
	}
}

func TestConditionsArePublishedAgainUntilTheyAreOut(t *testing.T) {
	f := &failing{left: 1, got: map[ConditionKey]Condition{}}
	problems := []Problem{
		{Object: "Pod a/x", Source: "f:1", Field: "spec.a", Err: errors.New("wrong")},
		{Object: "Pod a/x", Source: "f:2", Field: "spec.b", Err: errors.New("not applied"), Partial: true},
		{Object: "Pod a/y", Source: "f:3", Field: "spec.b", Err: errors.New("not applied"), Partial: true},
		{Source: "f:4", Err: errors.New("unreadable")},
	}
	o := &objects{problems: problems}
	c := Conditions{Publisher: f, Objects: o, Log: slog.New(slog.DiscardHandler)}
	published := map[ConditionKey]said{}
	if c.once(t.Context(), published) {
		t.Fatal("one failed, yet all are said to be out")
	}
	if !c.once(t.Context(), published) {
		t.Fatal("none failed, yet not all are said to be out")
	}
	want := map[ConditionKey]Condition{
		{"Pod a/x", "Accepted"}: {Type: "Accepted", Reason: "Invalid", Message: "f:1: wrong; f:2: not applied"},
		{"Pod a/y", "Accepted"}: {Type: "Accepted", Status: true, Reason: "PartiallyApplied", Message: "f:3: not applied"},
	}
	if !maps.Equal(f.got, want) {
		t.Errorf("got %+v, want %+v", f.got, want)
	}
	o.problems, f.got = nil, map[ConditionKey]Condition{}
	c.once(t.Context(), published)
	for object, c := range f.got {
		if !c.Status || c.Reason != ReasonAccepted || c.Message != "" {
			t.Errorf("%s after correction: %+v", object, c)
		}
	}
	if len(f.got) != 2 {
		t.Errorf("got %+v", f.got)
	}
}

// TestConditionsComeInOneOrder: in which they stand in their object from then on.
func TestConditionsComeInOneOrder(t *testing.T) {
	want := []string{"AuthorizationPolicy a/x Accepted", "MeshConfig default Accepted", "MeshConfig default Applied", "Pod a/x Accepted"}
	o := &objects{config: MeshConfigState{Here: true, Generation: 3}, problems: []Problem{
		{Object: "Pod a/x", Err: errors.New("wrong")}, {Object: "AuthorizationPolicy a/x", Err: errors.New("wrong")},
	}}
	for range 50 {
		f := &failing{got: map[ConditionKey]Condition{}}
		Conditions{Publisher: f, Objects: o, Log: slog.New(slog.DiscardHandler)}.once(t.Context(), map[ConditionKey]said{})
		if !slices.Equal(f.order, want) {
			t.Fatalf("published %q, want %q", f.order, want)
		}
	}
}

// TestConditionsGoWithTheirObject: and one that comes again under the name is told of anew.
func TestConditionsGoWithTheirObject(t *testing.T) {
	f := &failing{got: map[ConditionKey]Condition{}}
	o := &objects{problems: []Problem{{Object: "Pod a/x", Err: errors.New("wrong")}}, gone: map[string]bool{}}
	c := Conditions{Publisher: f, Objects: o, Log: slog.New(slog.DiscardHandler)}
	key := ConditionKey{"Pod a/x", ConditionAccepted}
	published := map[ConditionKey]said{{"Pod a/before", "Accepted"}: {Condition: Condition{Type: "Accepted"}}}
	o.gone["Pod a/before"] = true
	if !c.once(t.Context(), published) || len(f.got) != 1 || len(f.forgot) != 1 {
		t.Fatalf("published %v, forgot %v", f.got, f.forgot)
	}
	o.problems, o.gone["Pod a/x"], f.left = nil, true, 1
	if c.once(t.Context(), published) {
		t.Fatal("what failed is said to be done")
	}
	if !c.once(t.Context(), published) || len(f.forgot) != 2 || f.forgot[1] != key || len(published) != 0 {
		t.Fatalf("forgot %v, published %v", f.forgot, published)
	}
	o.problems, o.gone, f.got = []Problem{{Object: "Pod a/x", Err: errors.New("wrong")}}, nil, map[ConditionKey]Condition{}
	if c.once(t.Context(), published); len(f.got) != 1 {
		t.Errorf("its successor: %v", f.got)
	}
}

// TestConditionsOfMeshConfig: it always says how it stands.
func TestConditionsOfMeshConfig(t *testing.T) {
	accepted, applied := ConditionKey{"MeshConfig default", "Accepted"}, ConditionKey{"MeshConfig default", "Applied"}
	bad := []Problem{{Object: "MeshConfig default", Err: errors.New("spec.drain: wrong")}}
	for _, tt := range []struct {
		name              string
		state             MeshConfigState
		problems          []Problem
		accepted, applied string // what their messages contain; "" for those that are true
	}{
		{"good", MeshConfigState{Here: true, Generation: 3, InForce: 3}, nil, "", ""},
		{"refused", MeshConfigState{Here: true, Generation: 3, InForce: 2}, bad, "spec.drain", "generation 2"},
		{"never good", MeshConfigState{Here: true, Generation: 3, StandIn: true}, bad, "spec.drain", "plaintext is refused"},
	} {
		f := &failing{got: map[ConditionKey]Condition{}}
		c := Conditions{Publisher: f, Objects: &objects{problems: tt.problems, config: tt.state}, Log: slog.New(slog.DiscardHandler)}
		c.once(t.Context(), map[ConditionKey]said{})
		for key, message := range map[ConditionKey]string{accepted: tt.accepted, applied: tt.applied} {
			got := f.got[key]
			if got.ObservedGeneration != 3 || got.Status != (message == "") || !strings.Contains(got.Message, message) || got.Reason == "" {
				t.Errorf("%s: %+v", tt.name, got)
			}
		}
	}
	f := &failing{got: map[ConditionKey]Condition{}}
	if (Conditions{Publisher: f, Objects: &objects{}}).once(t.Context(), nil); len(f.got) != 0 {
		t.Errorf("without one: %v", f.got)
	}
}
