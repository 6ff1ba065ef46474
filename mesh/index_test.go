// SPDX-License-Identifier: Apache-2.0

package mesh

import "testing"

func TestWorkloadByPod(t *testing.T) {
	s := NewSnapshot().With(PutWorkload{&Workload{UID: "c//Pod/a/x", PodUID: "u1"}})
	if w := s.WorkloadByPod("u1"); w == nil || w.UID != "c//Pod/a/x" {
		t.Fatalf("by pod uid: got %v", w)
	}
	s = s.With(PutWorkload{&Workload{UID: "c//Pod/a/x", PodUID: "u2"}})
	if s.WorkloadByPod("u1") != nil || s.WorkloadByPod("u2") == nil {
		t.Fatal("a replaced workload is still found by its old pod uid, or not by its new one")
	}
	if s = s.With(DeleteWorkload{UID: "c//Pod/a/x"}); s.WorkloadByPod("u2") != nil {
		t.Fatal("a deleted workload is still found by its pod uid")
	}
}

func TestPoliciesFor(t *testing.T) {
	name := func(ns, n string) Name { return Name{Namespace: ns, Name: n} }
	s := NewSnapshot().With(
		PutPolicy{&Policy{Name: name("warren-system", "all"), Scope: ScopeMesh}},
		PutPolicy{&Policy{Name: name("a", "ns"), Scope: ScopeNamespace}},
		PutPolicy{&Policy{Name: name("a", "wl"), Scope: ScopeWorkload}},
		PutPolicy{&Policy{Name: name("b", "ns"), Scope: ScopeNamespace}},
	)
	count := func(s *Snapshot, ns string) (n int) {
		s.PoliciesFor(ns, func(*Policy) bool { n++; return true })
		return n
	}
	if got := count(s, "a"); got != 2 {
		t.Errorf("policies for a: got %d, want mesh and namespace", got)
	}
	moved := s.With(PutPolicy{&Policy{Name: name("a", "ns"), Scope: ScopeWorkload}})
	if got := count(moved, "a"); got != 1 {
		t.Errorf("policies for a after the namespace policy became a workload policy: got %d, want 1", got)
	}
	gone := s.With(DeletePolicy{name("warren-system", "all")}, DeletePolicy{name("b", "ns")}, DeletePolicy{name("b", "ns")})
	if got := count(gone, "b"); got != 0 {
		t.Errorf("policies for b after both went: got %d, want 0", got)
	}
	seen := 0
	s.PoliciesFor("a", func(*Policy) bool { seen++; return false })
	if seen != 1 {
		t.Errorf("f returned false, yet was called %d times", seen)
	}
}

func TestPolicySet(t *testing.T) {
	put := func(ns, n string, scope Scope) Change {
		return PutPolicy{&Policy{Name: Name{Namespace: ns, Name: n}, Scope: scope}}
	}
	s := NewSnapshot().With(put("a", "x", ScopeNamespace))
	for _, tt := range []struct {
		name   string
		change Change
		same   bool
	}{
		{"a workload", PutWorkload{&Workload{UID: "x"}}, true},
		{"another namespace's policy", put("b", "x", ScopeNamespace), true},
		{"a workload's policy", put("a", "y", ScopeWorkload), true},
		{"its own policy", put("a", "x", ScopeNamespace), false},
		{"a policy more", put("a", "y", ScopeNamespace), false},
		{"the mesh's", put("warren-system", "x", ScopeMesh), false},
		{"its own goes", DeletePolicy{Name{Namespace: "a", Name: "x"}}, false},
	} {
		if got := s.With(tt.change).PolicySet("a") == s.PolicySet("a"); got != tt.same {
			t.Errorf("%s: same %v, want %v", tt.name, got, tt.same)
		}
	}
}

func TestSamePolicies(t *testing.T) {
	s := NewSnapshot()
	if !s.SamePolicies(s.With(PutWorkload{&Workload{UID: "x"}})) {
		t.Error("a workload changed the policies")
	}
	if s.SamePolicies(s.With(PutPolicy{&Policy{}})) {
		t.Error("a policy did not change the policies")
	}
}
