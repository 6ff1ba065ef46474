// SPDX-License-Identifier: Apache-2.0

package dump

import (
	"net/netip"

	"github.com/warren-mesh/warren/mesh"
)

// Policy is one entry of "policies".
type Policy struct {
	Name      string      `json:"name"`
	Namespace string      `json:"namespace"`
	Scope     string      `json:"scope"`
	Action    string      `json:"action"`
	DryRun    bool        `json:"dryRun,omitempty"`
	Rules     [][][]Match `json:"rules"` // one of the rules, each of its clauses, one of the matches
}

// Match is what a connection must have, all of it.
type Match struct {
	Namespaces          []StringMatch  `json:"namespaces,omitempty"`
	NotNamespaces       []StringMatch  `json:"notNamespaces,omitempty"`
	Principals          []StringMatch  `json:"principals,omitempty"`
	NotPrincipals       []StringMatch  `json:"notPrincipals,omitempty"`
	ServiceAccounts     []Account      `json:"serviceAccounts,omitempty"`
	NotServiceAccounts  []Account      `json:"notServiceAccounts,omitempty"`
	SourceIPs           []netip.Prefix `json:"sourceIps,omitempty"`
	NotSourceIPs        []netip.Prefix `json:"notSourceIps,omitempty"`
	DestinationIPs      []netip.Prefix `json:"destinationIps,omitempty"`
	NotDestinationIPs   []netip.Prefix `json:"notDestinationIps,omitempty"`
	DestinationPorts    []uint16       `json:"destinationPorts,omitempty"`
	NotDestinationPorts []uint16       `json:"notDestinationPorts,omitempty"`
}

// StringMatch compares a word. Exactly one field is set.
type StringMatch struct {
	Exact    *string   `json:"Exact,omitempty"`
	Prefix   *string   `json:"Prefix,omitempty"`
	Suffix   *string   `json:"Suffix,omitempty"`
	Presence *struct{} `json:"Presence,omitempty"`
}

// Account is a service account.
type Account struct {
	Namespace string `json:"namespace"`
	Name      string `json:"serviceAccount"`
}

var (
	scopes  = map[mesh.Scope]string{mesh.ScopeMesh: "Global", mesh.ScopeNamespace: "Namespace", mesh.ScopeWorkload: "WorkloadSelector"}
	actions = map[mesh.Action]string{mesh.Allow: "Allow", mesh.Deny: "Deny", mesh.Audit: "Audit"}
)

func policy(p *mesh.Policy) Policy {
	out := Policy{
		Name: p.Name.Name, Namespace: p.Name.Namespace, Scope: scopes[p.Scope], Action: actions[p.Action],
		DryRun: p.DryRun, Rules: [][][]Match{},
	}
	for _, r := range p.Rules {
		clauses := [][]Match{}
		for _, c := range r.Clauses {
			clauses = append(clauses, convert(c.Matches, match))
		}
		out.Rules = append(out.Rules, clauses)
	}
	return out
}

func match(m mesh.Match) Match {
	return Match{
		Namespaces: convert(m.Namespaces, stringMatch), NotNamespaces: convert(m.NotNamespaces, stringMatch),
		Principals: convert(m.Principals, stringMatch), NotPrincipals: convert(m.NotPrincipals, stringMatch),
		ServiceAccounts: convert(m.ServiceAccounts, account), NotServiceAccounts: convert(m.NotServiceAccounts, account),
		SourceIPs: m.SourceIPs, NotSourceIPs: m.NotSourceIPs, DestinationIPs: m.DestinationIPs, NotDestinationIPs: m.NotDestinationIPs,
		DestinationPorts: m.DestinationPorts, NotDestinationPorts: m.NotDestinationPorts,
	}
}

func stringMatch(m mesh.StringMatch) StringMatch {
	switch m.Kind {
	case mesh.MatchExact:
		return StringMatch{Exact: &m.Value}
	case mesh.MatchPrefix:
		return StringMatch{Prefix: &m.Value}
	case mesh.MatchSuffix:
		return StringMatch{Suffix: &m.Value}
	}
	return StringMatch{Presence: &struct{}{}}
}

func account(n mesh.Name) Account { return Account{n.Namespace, n.Name} }

func convert[A, B any](in []A, f func(A) B) []B {
	out := make([]B, 0, len(in))
	for _, a := range in {
		out = append(out, f(a))
	}
	return out
}
