// SPDX-License-Identifier: Apache-2.0

package kube

import "iter"

// few is a set that nearly always has one member: a pod's address has one pod, a pod is in one slice. That one
// lies in the map's own entry; a cluster has very many of them.
type few[K comparable] struct {
	one  K
	any  bool
	more set[K]
}

func (f few[K]) len() int {
	if f.any {
		return 1 + len(f.more)
	}
	return 0
}

// all gives the members, in no order.
func (f few[K]) all() iter.Seq[K] {
	return func(yield func(K) bool) {
		if !f.any || !yield(f.one) {
			return
		}
		for k := range f.more {
			if !yield(k) {
				return
			}
		}
	}
}

// addFew adds v to those under k.
func addFew[K, V comparable](m map[K]few[V], k K, v V) {
	f := m[k]
	switch {
	case !f.any:
		f.one, f.any = v, true
	case f.one != v:
		if f.more == nil {
			f.more = set[V]{}
		}
		f.more.add(v)
	}
	m[k] = f
}

// removeFew removes v from those under k, and the entry when none is left.
func removeFew[K, V comparable](m map[K]few[V], k K, v V) {
	f, ok := m[k]
	if !ok {
		return
	}
	if f.one != v {
		delete(f.more, v)
		return
	}
	for next := range f.more {
		delete(f.more, next)
		f.one = next
		m[k] = f
		return
	}
	delete(m, k)
}

// addFew adds all members of f.
func (s set[K]) addFew(f few[K]) {
	for k := range f.all() {
		s.add(k)
	}
}
