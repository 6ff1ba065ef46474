// SPDX-License-Identifier: Apache-2.0

package authz

import (
	"net/netip"

	"github.com/warren-mesh/warren/mesh"
)

// table finds rules by a key that the connection must have to match them. Its lists are in order.
type table struct {
	rest     []ref // rules without a key
	words    [namespace + 1]wordTable
	accounts map[string][]ref // by the principal after its trust domain
	ports    map[uint16][]ref
	blocks   [destination + 1]blockTable
}

// wordTable finds by text: whole, beginnings and ends.
type wordTable struct {
	exact      map[string][]ref
	begin, end []sized[string]
}

// blockTable finds by the prefix of an address.
type blockTable struct{ v4, v6 []sized[netip.Addr] }

// sized holds the keys of one length: of text, or of a prefix.
type sized[K comparable] struct {
	size int
	refs map[K][]ref
}

// candidates calls f with lists that together hold every rule that matches the connection.
func (t *table) candidates(c *peer, f func([]ref)) {
	f(t.rest)
	if c.principal != "" {
		t.words[principal].look(c.principal, f)
		t.words[namespace].look(c.Identity.Namespace, f)
		if len(t.accounts) > 0 {
			f(t.accounts[c.principal[len(c.Identity.TrustDomain):]])
		}
	}
	t.blocks[source].look(c.Source, f)
	t.blocks[destination].look(c.Destination.Addr(), f)
	if len(t.ports) > 0 {
		f(t.ports[c.Destination.Port()])
	}
}

func (t *wordTable) look(s string, f func([]ref)) {
	if s == "" {
		return
	}
	if len(t.exact) > 0 {
		f(t.exact[s])
	}
	for i := range t.begin {
		if b := &t.begin[i]; b.size <= len(s) {
			f(b.refs[s[:b.size]])
		}
	}
	for i := range t.end {
		if e := &t.end[i]; e.size <= len(s) {
			f(e.refs[s[len(s)-e.size:]])
		}
	}
}

func (t *blockTable) look(a netip.Addr, f func([]ref)) {
	if !a.IsValid() {
		return
	}
	list := t.v4
	if a.Is6() {
		list = t.v6
	}
	for i := range list {
		f(list[i].refs[netip.PrefixFrom(a, list[i].size).Masked().Addr()])
	}
}

// add puts a rule under keys. Rules come in order.
func (t *table) add(r ref, keys []key) {
	for _, k := range keys {
		switch k.attribute {
		case principal, namespace:
			w := &t.words[k.attribute]
			switch k.kind {
			case mesh.MatchPrefix:
				put(sizedMap(&w.begin, len(k.text)), k.text, r)
			case mesh.MatchSuffix:
				put(sizedMap(&w.end, len(k.text)), k.text, r)
			default:
				put(&w.exact, k.text, r)
			}
		case account:
			put(&t.accounts, k.text, r)
		case port:
			put(&t.ports, k.port, r)
		default:
			if !k.prefix.IsValid() {
				continue // no address lies in it
			}
			list := &t.blocks[k.attribute].v4
			if k.prefix.Addr().Is6() {
				list = &t.blocks[k.attribute].v6
			}
			put(sizedMap(list, k.prefix.Bits()), k.prefix.Addr(), r)
		}
	}
}

func sizedMap[K comparable](list *[]sized[K], size int) *map[K][]ref {
	for i := range *list {
		if (*list)[i].size == size {
			return &(*list)[i].refs
		}
	}
	*list = append(*list, sized[K]{size: size})
	return &(*list)[len(*list)-1].refs
}

// put appends to a key's list. A rule that has a key twice comes twice in a row.
func put[K comparable](m *map[K][]ref, k K, r ref) {
	if *m == nil {
		*m = map[K][]ref{}
	}
	if list := (*m)[k]; len(list) == 0 || list[len(list)-1] != r {
		(*m)[k] = append(list, r)
	}
}
