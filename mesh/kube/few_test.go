// SPDX-License-Identifier: Apache-2.0

package kube

import (
	"maps"
	"math/rand/v2"
	"testing"
)

// A few is a set, whatever is added to and removed from it.
func TestFewIsASet(t *testing.T) {
	r := rand.New(rand.NewPCG(1, 2))
	m, want := map[string]few[int]{}, map[string]set[int]{}
	for range 5000 {
		k, v := string(rune('a'+r.IntN(3))), r.IntN(4)
		if r.IntN(2) == 0 {
			addFew(m, k, v)
			addTo(want, k, v)
		} else {
			removeFew(m, k, v)
			removeFrom(want, k, v)
		}
		got := set[int]{}
		got.addFew(m[k])
		if len(m) != len(want) || !maps.Equal(got, want[k]) && len(got)+len(want[k]) > 0 || m[k].len() != len(want[k]) {
			t.Fatalf("%s: %v, want %v", k, m[k], want[k])
		}
		for first := range m[k].all() {
			if _, ok := want[k][first]; !ok {
				t.Fatalf("%d is no member", first)
			}
			break
		}
	}
}
