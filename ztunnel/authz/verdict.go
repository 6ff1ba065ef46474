// SPDX-License-Identifier: Apache-2.0

package authz

import "github.com/warren-mesh/warren/mesh"

// Verdict is what became of one policy that applies.
type Verdict struct {
	Policy *mesh.Policy
	// Rule is the index of the first rule that matches, -1 when none does.
	Rule int
	// Misses tell why the rules before it do not match.
	Misses []Miss
}

// Miss is why a match of a rule does not hold.
type Miss struct {
	Rule, Clause, Match int
	// Missing is the first attribute that does not hold, for people.
	Missing string
}

// misses are those of the first clause that does not match, of each rule before the one that matches.
func misses(p *mesh.Policy, matched int, c *peer) (out []Miss) {
	if matched < 0 {
		matched = len(p.Rules)
	}
	for r := range p.Rules[:matched] {
		for cl := range p.Rules[r].Clauses {
			clause := &p.Rules[r].Clauses[cl]
			if matchClause(clause, c) {
				continue
			}
			for m := range clause.Matches {
				out = append(out, Miss{Rule: r, Clause: cl, Match: m, Missing: missedNames[miss(&clause.Matches[m], c)]})
			}
			break
		}
	}
	return out
}
