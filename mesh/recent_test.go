// SPDX-License-Identifier: Apache-2.0

package mesh

import (
	"fmt"
	"testing"
)

func TestSince(t *testing.T) {
	s := NewStore()
	put := func(i int) Change { return PutWorkload{Workload: &Workload{UID: fmt.Sprint(i)}} }
	for i := range 3 {
		s.Apply(put(i))
	}
	changes, now, ok := s.Since(1)
	if !ok || len(changes) != 2 || now != s.Snapshot() {
		t.Fatalf("since 1: %d changes, %v", len(changes), ok)
	}
	for i, c := range changes {
		if got := c.(PutWorkload).Workload.UID; got != fmt.Sprint(i+1) {
			t.Errorf("change %d is of %s", i, got)
		}
	}
	if changes, _, ok := s.Since(3); !ok || len(changes) != 0 {
		t.Errorf("since now: %d changes, %v", len(changes), ok)
	}
	if _, _, ok := s.Since(4); ok {
		t.Error("since a version still to come: ok")
	}
	for i := range recentSteps {
		s.Apply(put(i))
	}
	if changes, _, ok := s.Since(3); !ok || len(changes) != recentSteps {
		t.Errorf("as far back as it goes: %d changes, %v", len(changes), ok)
	}
	if _, _, ok := s.Since(2); ok {
		t.Error("farther than it goes: ok")
	}
	s.Apply(manyPuts(recentChanges + 1)...)
	v := s.Snapshot().Version()
	if _, _, ok := s.Since(v - 1); ok {
		t.Error("over a step too large to keep: ok")
	}
	if _, _, ok := s.Since(v); !ok {
		t.Error("behind a step too large to keep: not ok")
	}
}

func manyPuts(n int) (out []Change) {
	for i := range n {
		out = append(out, PutWorkload{Workload: &Workload{UID: fmt.Sprint(i)}})
	}
	return out
}
