// SPDX-License-Identifier: Apache-2.0

package authz

import "github.com/warren-mesh/warren/mesh"

// Verdict is what became of one policy that applies.
type Verdict struct {
	Policy *mesh.Policy
	// Rule is the index of the first rule that matches, -1 when none does.
	Rule int

	peer *peer
}

// Miss is why a match of a rule does not hold.
type Miss struct {
	Rule, Clause, Match int
	// Missing is the first attribute that does not hold, for people.
	Missing string
}

// Misses tell why the rules before the one that matches do not: for each, what is wrong with its first clause that does
// not match.
func (v Verdict) Misses() (out []Miss) {
	before := v.Rule
	if before < 0 {
		before = len(v.Policy.Rules)
	}
	for r := range v.Policy.Rules[:before] {
		for cl := range v.Policy.Rules[r].Clauses {
			clause := &v.Policy.Rules[r].Clauses[cl]
			if matchClause(clause, v.peer) {
				continue
			}
			for m := range clause.Matches {
				out = append(out, Miss{Rule: r, Clause: cl, Match: m, Missing: missedNames[miss(&clause.Matches[m], v.peer)]})
			}
			break
		}
	}
	return out
}
