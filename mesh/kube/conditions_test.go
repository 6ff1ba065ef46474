// SPDX-License-Identifier: Apache-2.0

package kube

import (
	"context"
	"errors"
	"log/slog"
	"maps"
	"testing"

	"github.com/warren-mesh/warren/mesh"
)

// failing refuses the first few publications.
type failing struct {
	left int
	got  map[string]Condition
}

func (f *failing) PublishCaptured(context.Context, mesh.Name, string, string) error { return nil }

func (f *failing) PublishCondition(_ context.Context, object string, c Condition) error {
	if f.left--; f.left >= 0 {
		return errors.New("not now")
	}
	f.got[object] = c
	return nil
}

func TestConditionsArePublishedAgainUntilTheyAreOut(t *testing.T) {
	f := &failing{left: 1, got: map[string]Condition{}}
	problems := []Problem{
		{Object: "Pod a/x", Source: "f:1", Field: "spec.a", Err: errors.New("wrong")},
		{Object: "Pod a/x", Source: "f:2", Field: "spec.b", Err: errors.New("not applied"), Partial: true},
		{Object: "Pod a/y", Source: "f:3", Field: "spec.b", Err: errors.New("not applied"), Partial: true},
		{Source: "f:4", Err: errors.New("unreadable")},
	}
	c := ProblemConditions{Publisher: f, Problems: func() []Problem { return problems }, Log: slog.New(slog.DiscardHandler)}
	published := map[string]Condition{}
	if c.once(t.Context(), published) {
		t.Fatal("one failed, yet all are said to be out")
	}
	if !c.once(t.Context(), published) {
		t.Fatal("none failed, yet not all are said to be out")
	}
	want := map[string]Condition{
		"Pod a/x": {Type: "Accepted", Reason: "Invalid", Message: "f:1: wrong; f:2: not applied"},
		"Pod a/y": {Type: "Accepted", Status: true, Reason: "PartiallyApplied", Message: "f:3: not applied"},
	}
	if !maps.Equal(f.got, want) {
		t.Errorf("got %+v, want %+v", f.got, want)
	}
	problems, f.got = nil, map[string]Condition{}
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
