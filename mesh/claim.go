// SPDX-License-Identifier: Apache-2.0

package mesh

import (
	"slices"

	"github.com/benbjohnson/immutable"
)

// claim is an immutable list of those that claim one key (an address, a host name), the latest first: it
// answers, and when it goes, the one before answers again. Almost every list has one entry.
type claim[I comparable, V any] struct {
	id    I
	value V
	older *claim[I, V]
}

// with returns the list with id's value: in its place where it already claims, else in front.
func (c *claim[I, V]) with(id I, v V) *claim[I, V] {
	if out, ok := c.replaced(id, v); ok {
		return out
	}
	return &claim[I, V]{id: id, value: v, older: c}
}

func (c *claim[I, V]) replaced(id I, v V) (*claim[I, V], bool) {
	if c == nil {
		return nil, false
	}
	if c.id == id {
		return &claim[I, V]{id: id, value: v, older: c.older}, true
	}
	older, ok := c.older.replaced(id, v)
	if !ok {
		return c, false
	}
	return &claim[I, V]{id: c.id, value: c.value, older: older}, true
}

// without returns the list without id, nil when that leaves nobody.
func (c *claim[I, V]) without(id I) *claim[I, V] {
	switch {
	case c == nil:
		return nil
	case c.id == id:
		return c.older
	}
	older := c.older.without(id)
	if older == c.older {
		return c
	}
	return &claim[I, V]{id: c.id, value: c.value, older: older}
}

// claims finds lists by key.
type claims[K, I comparable, V any] struct {
	m *immutable.Map[K, *claim[I, V]]
}

func newClaims[K, I comparable, V any]() claims[K, I, V] {
	return claims[K, I, V]{m: newMap[K, *claim[I, V]]()}
}

// get returns who answers for k, or V's zero value.
func (c claims[K, I, V]) get(k K) (v V) {
	if l := get(c.m, k); l != nil {
		v = l.value
	}
	return v
}

// move returns claims in which id, which had the keys old, has the keys now, with value v.
func (c claims[K, I, V]) move(id I, old, now []K, v V) claims[K, I, V] {
	m := c.m
	for _, k := range old {
		if slices.Contains(now, k) {
			continue
		}
		if l := get(m, k).without(id); l != nil {
			m = m.Set(k, l)
		} else {
			m = m.Delete(k)
		}
	}
	for _, k := range now {
		m = m.Set(k, get(m, k).with(id, v))
	}
	return claims[K, I, V]{m: m}
}
