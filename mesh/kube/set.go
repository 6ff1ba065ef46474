// SPDX-License-Identifier: Apache-2.0

package kube

// set is a set of names.
type set[K comparable] map[K]struct{}

func (s set[K]) add(k K) { s[k] = struct{}{} }

func (s set[K]) addAll(o set[K]) {
	for k := range o {
		s[k] = struct{}{}
	}
}

// addTo adds v to the set under k.
func addTo[K, V comparable](m map[K]set[V], k K, v V) {
	if m[k] == nil {
		m[k] = set[V]{}
	}
	m[k].add(v)
}

// removeFrom removes v from the set under k, and the set when it is empty.
func removeFrom[K, V comparable](m map[K]set[V], k K, v V) {
	if delete(m[k], v); len(m[k]) == 0 {
		delete(m, k)
	}
}
