// SPDX-License-Identifier: Apache-2.0

package manifests

import (
	"context"
	"errors"
	"maps"
	"testing"

	"github.com/warren-mesh/warren/mesh"
	"github.com/warren-mesh/warren/mesh/kube"
)

// failing refuses the first few publications.
type failing struct {
	left int
	got  map[string]kube.Condition
}

func (f *failing) PublishCaptured(context.Context, mesh.Name, string, string) error { return nil }

func (f *failing) PublishCondition(_ context.Context, object string, c kube.Condition) error {
	if f.left--; f.left >= 0 {
		return errors.New("not now")
	}
	f.got[object] = c
	return nil
}

func TestConditionsArePublishedAgainUntilTheyAreOut(t *testing.T) {
	f := &failing{left: 1, got: map[string]kube.Condition{}}
	s := New(t.TempDir(), kube.Config{}, nil)
	s.PublishConditions(f)
	s.problems = []kube.Problem{
		{Object: "Pod a/x", Source: "f:1", Field: "spec.a", Err: errors.New("wrong")},
		{Object: "Pod a/x", Source: "f:2", Field: "spec.b", Err: errors.New("not applied"), Partial: true},
		{Object: "Pod a/y", Source: "f:3", Field: "spec.b", Err: errors.New("not applied"), Partial: true},
		{Source: "f:4", Err: errors.New("unreadable")},
	}
	published := map[string]kube.Condition{}
	if s.publishOnce(t.Context(), published) {
		t.Fatal("one failed, yet all are said to be out")
	}
	if !s.publishOnce(t.Context(), published) {
		t.Fatal("none failed, yet not all are said to be out")
	}
	want := map[string]kube.Condition{
		"Pod a/x": {Type: "Accepted", Reason: "Invalid", Message: "f:1: wrong; f:2: not applied"},
		"Pod a/y": {Type: "Accepted", Status: true, Reason: "PartiallyApplied", Message: "f:3: not applied"},
	}
	if !maps.Equal(f.got, want) {
		t.Errorf("got %+v, want %+v", f.got, want)
	}
	s.problems, f.got = nil, map[string]kube.Condition{}
	s.publishOnce(t.Context(), published)
	for object, c := range f.got {
		if !c.Status || c.Reason != kube.ReasonAccepted || c.Message != "" {
			t.Errorf("%s after correction: %+v", object, c)
		}
	}
	if len(f.got) != 2 {
		t.Errorf("got %+v", f.got)
	}
}
