// SPDX-License-Identifier: Apache-2.0

package explain

import (
	"fmt"
	"net/netip"
	"strconv"
	"strings"

	"github.com/warren-mesh/warren/mesh"
	"github.com/warren-mesh/warren/mesh/explain"
	"github.com/warren-mesh/warren/ztunnel/authz"
)

// Of long lists only so much is shown: policies that do not match, and reasons why one does not.
const (
	mostPolicies = 64
	mostMisses   = 8
)

var scopes = map[mesh.Scope]string{mesh.ScopeMesh: "mesh", mesh.ScopeNamespace: "namespace", mesh.ScopeWorkload: "workload"}

// policies are the verdicts in their order.
func policies(vs []authz.Verdict, d authz.Decision) (out []explain.Policy, omitted int) {
	out = []explain.Policy{}
	for _, v := range vs {
		enforced := !v.Policy.DryRun && v.Policy.Action != mesh.Audit
		matched, decides := v.Rule >= 0, enforced && v.Policy.Name == d.Policy
		if !matched && !decides && len(out) >= mostPolicies {
			omitted++
			continue
		}
		p := explain.Policy{
			Name: v.Policy.Name.String(), Action: v.Policy.Action.String(), Scope: scopes[v.Policy.Scope], Rule: v.Rule,
			Matched: matched, Enforced: enforced, Decides: decides,
		}
		switch {
		case matched:
			p.Text = ruleText(&v.Policy.Rules[v.Rule])
		case len(v.Policy.Rules) == 0:
			p.Misses = []string{"it has no rules"}
		default:
			p.Misses = misses(v)
		}
		out = append(out, p)
	}
	return out, omitted
}

func misses(v authz.Verdict) (out []string) {
	all := v.Misses()
	for i, m := range all {
		if i == mostMisses {
			return append(out, fmt.Sprintf("and %d more", len(all)-i))
		}
		out = append(out, fmt.Sprintf("rules[%d] wants another %s: %s", m.Rule, m.Missing, matchText(&v.Policy.Rules[m.Rule].Clauses[m.Clause].Matches[m.Match])))
	}
	return out
}

// ruleText says what a rule wants.
func ruleText(r *mesh.Rule) string {
	var clauses []string
	for _, c := range r.Clauses {
		var any []string
		for i := range c.Matches {
			any = append(any, matchText(&c.Matches[i]))
		}
		if len(any) > 0 {
			clauses = append(clauses, strings.Join(any, " or "))
		}
	}
	if len(clauses) == 0 {
		return "everything"
	}
	return strings.Join(clauses, " and ")
}

func matchText(m *mesh.Match) string {
	var all []string
	list := func(name string, values []string) {
		if len(values) > mostMisses {
			values = append(values[:mostMisses:mostMisses], fmt.Sprintf("%d more", len(values)-mostMisses))
		}
		if len(values) > 0 {
			all = append(all, name+"="+strings.Join(values, ","))
		}
	}
	list("namespaces", texts(m.Namespaces, wordText))
	list("notNamespaces", texts(m.NotNamespaces, wordText))
	list("principals", texts(m.Principals, wordText))
	list("notPrincipals", texts(m.NotPrincipals, wordText))
	list("serviceAccounts", texts(m.ServiceAccounts, mesh.Name.String))
	list("notServiceAccounts", texts(m.NotServiceAccounts, mesh.Name.String))
	list("ipBlocks", texts(m.SourceIPs, netip.Prefix.String))
	list("notIpBlocks", texts(m.NotSourceIPs, netip.Prefix.String))
	list("destinationIPs", texts(m.DestinationIPs, netip.Prefix.String))
	list("notDestinationIPs", texts(m.NotDestinationIPs, netip.Prefix.String))
	list("ports", texts(m.DestinationPorts, portText))
	list("notPorts", texts(m.NotDestinationPorts, portText))
	if len(all) == 0 {
		return "nothing"
	}
	return "{" + strings.Join(all, " ") + "}"
}

func texts[T any](in []T, f func(T) string) []string {
	out := make([]string, len(in))
	for i, v := range in {
		out[i] = f(v)
	}
	return out
}

func portText(p uint16) string { return strconv.Itoa(int(p)) }

func wordText(m mesh.StringMatch) string {
	switch m.Kind {
	case mesh.MatchPrefix:
		return m.Value + "*"
	case mesh.MatchSuffix:
		return "*" + m.Value
	case mesh.MatchPresence:
		return "*"
	}
	return m.Value
}
