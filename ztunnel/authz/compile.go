// SPDX-License-Identifier: Apache-2.0

package authz

import (
	"encoding/binary"
	"net/netip"

	"github.com/warren-mesh/warren/mesh"
)

// compile makes the index of what applies to dst.
func compile(snap *mesh.Snapshot, dst *mesh.Workload) *index {
	policies, unknown := applying(snap, dst)
	x := &index{findings: findings{policies: policies, unknown: unknown, firstAllow: none}}
	deny, allow, notes := newCompiler(true), newCompiler(true), newCompiler(false)
	for rank, p := range policies {
		c := deny
		switch {
		case !enforced(p):
			c = notes
		case p.Action == mesh.Allow:
			c = allow
		}
		x.noteAllow(rank)
		c.policy(int32(rank), p)
	}
	x.deny, x.allow, x.notes = deny.table(), allow.table(), notes.table()
	return x
}

// compiler gathers rules, in order, for one table.
type compiler struct {
	// onlyFirst: only the first rule that matches counts. Then a rule that says what one before it says is
	// never the first, nor is any that follows one that always matches.
	onlyFirst bool
	always    bool
	seen      map[string]struct{}
	rules     []candidate
	count     map[key]int // how many rules may be found by a key
	buf       []byte
}

// candidate is a rule with the ways to find it: sets of keys of which a connection that matches has one.
type candidate struct {
	ref  ref
	ways []way
}

// way is for each match of one clause the keys to choose from, by attribute.
type way [][][]key

func newCompiler(onlyFirst bool) *compiler {
	return &compiler{onlyFirst: onlyFirst, seen: map[string]struct{}{}, count: map[key]int{}}
}

func (c *compiler) policy(rank int32, p *mesh.Policy) {
	if !c.onlyFirst {
		c.always = false
		clear(c.seen)
	}
	for i := range p.Rules {
		if c.always {
			return
		}
		c.rule(ref{rank, int32(i)}, &p.Rules[i])
	}
}

func (c *compiler) rule(r ref, rule *mesh.Rule) {
	c.buf = fingerprint(c.buf[:0], rule)
	if _, ok := c.seen[string(c.buf)]; ok {
		return
	}
	c.seen[string(c.buf)] = struct{}{}
	out := candidate{ref: r}
	c.always = true
	for i := range rule.Clauses {
		if len(rule.Clauses[i].Matches) == 0 {
			continue
		}
		c.always = false
		w, matches := wayOf(rule.Clauses[i].Matches)
		if !matches {
			return // nothing ever does
		}
		if w != nil {
			out.ways = append(out.ways, w)
		}
	}
	for _, w := range out.ways {
		for _, choices := range w {
			for _, keys := range choices {
				for _, k := range keys {
					c.count[k]++
				}
			}
		}
	}
	c.rules = append(c.rules, out)
}

// wayOf is nil when the clause can match a connection that has none of a known set of keys. It reports whether
// the clause can match at all.
func wayOf(ms []mesh.Match) (w way, matches bool) {
	indexed := true
	for i := range ms {
		if ms[i].IsZero() {
			continue
		}
		matches = true
		choices := keysOf(&ms[i])
		indexed = indexed && len(choices) > 0
		w = append(w, choices)
	}
	if !indexed {
		w = nil
	}
	return w, matches
}

// keysOf gives for each attribute with positive values the keys of which a matching connection has one.
func keysOf(m *mesh.Match) (out [][]key) {
	add := func(n int, k func(int) key) {
		if n == 0 {
			return
		}
		keys := make([]key, n)
		for i := range keys {
			keys[i] = k(i)
		}
		out = append(out, keys)
	}
	add(len(m.Principals), func(i int) key { return wordKey(principal, m.Principals[i]) })
	add(len(m.ServiceAccounts), func(i int) key {
		n := m.ServiceAccounts[i]
		return key{attribute: account, text: mesh.Identity{Namespace: n.Namespace, ServiceAccount: n.Name}.Principal()}
	})
	add(len(m.SourceIPs), func(i int) key { return key{attribute: source, prefix: m.SourceIPs[i].Masked()} })
	add(len(m.Namespaces), func(i int) key { return wordKey(namespace, m.Namespaces[i]) })
	add(len(m.DestinationPorts), func(i int) key { return key{attribute: port, port: m.DestinationPorts[i]} })
	add(len(m.DestinationIPs), func(i int) key { return key{attribute: destination, prefix: m.DestinationIPs[i].Masked()} })
	return out
}

func wordKey(a attribute, s mesh.StringMatch) key {
	switch s.Kind {
	case mesh.MatchExact, mesh.MatchPrefix, mesh.MatchSuffix:
		return key{attribute: a, kind: s.Kind, text: s.Value}
	}
	return key{attribute: a, kind: mesh.MatchPrefix} // anything there is begins with nothing
}

// table puts each rule where the fewest others are.
func (c *compiler) table() (t table) {
	for _, r := range c.rules {
		var best []key
		least := -1
		for _, w := range r.ways {
			if keys, n := c.pick(w); least < 0 || n < least {
				best, least = keys, n
			}
		}
		if least < 0 {
			t.rest = append(t.rest, r.ref)
			continue
		}
		t.add(r.ref, best)
	}
	return t
}

// pick chooses for each match of a clause the attribute whose fullest key is the least full.
func (c *compiler) pick(w way) (keys []key, fullest int) {
	for _, choices := range w {
		least, pick := -1, []key(nil)
		for _, ks := range choices {
			n := 0
			for _, k := range ks {
				n = max(n, c.count[k])
			}
			if least < 0 || n < least {
				least, pick = n, ks
			}
		}
		keys, fullest = append(keys, pick...), max(fullest, least)
	}
	return keys, fullest
}

// fingerprint is equal for rules that say the same in the same order.
func fingerprint(b []byte, r *mesh.Rule) []byte {
	b = binary.AppendUvarint(b, uint64(len(r.Clauses)))
	for i := range r.Clauses {
		b = binary.AppendUvarint(b, uint64(len(r.Clauses[i].Matches)))
		for j := range r.Clauses[i].Matches {
			m := &r.Clauses[i].Matches[j]
			for _, l := range [...][]mesh.StringMatch{m.Namespaces, m.NotNamespaces, m.Principals, m.NotPrincipals} {
				b = list(b, l, func(b []byte, s mesh.StringMatch) []byte { return text(append(b, byte(s.Kind)), s.Value) })
			}
			for _, l := range [...][]mesh.Name{m.ServiceAccounts, m.NotServiceAccounts} {
				b = list(b, l, func(b []byte, n mesh.Name) []byte { return text(text(b, n.Namespace), n.Name) })
			}
			for _, l := range [...][]netip.Prefix{m.SourceIPs, m.NotSourceIPs, m.DestinationIPs, m.NotDestinationIPs} {
				b = list(b, l, func(b []byte, p netip.Prefix) []byte {
					addr, _ := p.Addr().MarshalBinary() // never fails
					return text(binary.AppendVarint(b, int64(p.Bits())), string(addr))
				})
			}
			for _, l := range [...][]uint16{m.DestinationPorts, m.NotDestinationPorts} {
				b = list(b, l, binary.BigEndian.AppendUint16)
			}
		}
	}
	return b
}

func list[T any](b []byte, l []T, f func([]byte, T) []byte) []byte {
	b = binary.AppendUvarint(b, uint64(len(l)))
	for _, v := range l {
		b = f(b, v)
	}
	return b
}

func text(b []byte, s string) []byte { return append(binary.AppendUvarint(b, uint64(len(s))), s...) }
