// SPDX-License-Identifier: Apache-2.0

package authz

import (
	"net/netip"
	"slices"

	"github.com/warren-mesh/warren/mesh"
)

// index holds the rules that apply to one destination, so that a connection is compared with those only that
// may match it. Immutable.
type index struct {
	findings           // what does not depend on the connection
	deny, allow, notes table
}

// evaluate gives the answer that Evaluate would.
func (x *index) evaluate(c Connection) Decision {
	p := newPeer(c)
	f := x.findings
	f.notes = x.all(&x.notes, &p)
	f.allow = nothing
	if f.deny = x.first(&x.deny, &p); f.deny == nothing && f.unknown.IsZero() {
		f.allow = x.first(&x.allow, &p)
	}
	return f.decide()
}

// first is the first rule that matches, or nothing.
func (x *index) first(t *table, c *peer) ref {
	best := nothing
	t.candidates(c, func(list []ref) {
		for _, r := range list {
			if !r.before(best) {
				return // so do all that follow
			}
			if matchRule(&x.policies[r.rank].Rules[r.rule], c) {
				best = r
				return
			}
		}
	})
	return best
}

// all is the first rule that matches of each policy, in their order.
func (x *index) all(t *table, c *peer) []ref {
	var out []ref
	t.candidates(c, func(list []ref) {
		for _, r := range list {
			if matchRule(&x.policies[r.rank].Rules[r.rule], c) {
				out = append(out, r)
			}
		}
	})
	slices.SortFunc(out, func(a, b ref) int {
		switch {
		case a == b:
			return 0
		case a.before(b):
			return -1
		}
		return 1
	})
	return slices.CompactFunc(out, func(a, b ref) bool { return a.rank == b.rank })
}

// attribute is a property of connections that rules name exactly enough to be found by.
type attribute uint8

const (
	principal attribute = iota
	namespace
	account
	source
	destination
	port
)

// key is one value of an attribute, or what its values begin or end with.
type key struct {
	attribute attribute
	kind      mesh.MatchKind // of text
	port      uint16
	text      string
	prefix    netip.Prefix
}
