// SPDX-License-Identifier: Apache-2.0

package kube

import (
	"slices"
	"strings"

	"github.com/warren-mesh/warren/mesh"
)

// withAliases returns p with each principal that names one of the mesh's trust domains naming all of them: whoever
// has an identity in one of these is met by what is said of any. Expanding the policies, as istiod does, leaves
// nothing to do per connection, and a ztunnel that is not Warren's means the same.
func (t *Translator) withAliases(p *mesh.Policy) *mesh.Policy {
	c := t.base()
	if len(c.TrustDomainAliases) == 0 || p == nil {
		return p
	}
	own := append([]string{t.cfg.TrustDomain}, c.TrustDomainAliases...)
	out := *p
	out.Rules = slices.Clone(p.Rules)
	for i := range out.Rules {
		clauses := slices.Clone(out.Rules[i].Clauses)
		for j := range clauses {
			matches := slices.Clone(clauses[j].Matches)
			for k := range matches {
				matches[k].Principals = inAll(own, matches[k].Principals)
				matches[k].NotPrincipals = inAll(own, matches[k].NotPrincipals)
			}
			clauses[j].Matches = matches
		}
		out.Rules[i].Clauses = clauses
	}
	return &out
}

// inAll adds to each match what it is in the other trust domains.
func inAll(own []string, in []mesh.StringMatch) (out []mesh.StringMatch) {
	add := func(m mesh.StringMatch) {
		if !slices.Contains(out, m) {
			out = append(out, m)
		}
	}
	for _, m := range in {
		add(m)
		for _, v := range siblings(own, m) {
			add(v)
		}
	}
	return out
}

// siblings are the matches for the trust domains in own, if m fits an identity in one of them because of its trust
// domain. A principal is <trust domain>/ns/<namespace>/sa/<service account>, none of which has a slash.
func siblings(own []string, m mesh.StringMatch) (out []mesh.StringMatch) {
	td, rest, whole := strings.Cut(m.Value, "/")
	kind := m.Kind
	var fits func(string) bool
	switch {
	case m.Kind == mesh.MatchExact && whole, m.Kind == mesh.MatchPrefix && whole:
		fits = func(t string) bool { return t == td }
	case m.Kind == mesh.MatchPrefix:
		fits = func(t string) bool { return strings.HasPrefix(t, td) }
	case m.Kind == mesh.MatchSuffix && td != "" && strings.Count(m.Value, "/") == 4:
		fits = func(t string) bool { return strings.HasSuffix(t, td) }
		kind = mesh.MatchExact
	default:
		return nil // it fits whatever the trust domain
	}
	if !slices.ContainsFunc(own, fits) {
		return nil
	}
	for _, t := range own {
		out = append(out, mesh.StringMatch{Kind: kind, Value: t + "/" + rest})
	}
	return out
}

func equalAliases(a, b *mesh.Config) bool {
	return slices.Equal(a.TrustDomainAliases, b.TrustDomainAliases)
}

// touchPrincipals has the policies that may name principals looked at again.
func (t *Translator) touchPrincipals() {
	for n := range t.authz {
		t.dirtyAuthz.add(n)
	}
}
