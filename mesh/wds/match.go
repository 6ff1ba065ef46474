// SPDX-License-Identifier: Apache-2.0

package wds

import (
	"errors"
	"fmt"
	"net/netip"

	"github.com/warren-mesh/warren/mesh"
	"github.com/warren-mesh/warren/mesh/wds/authzpb"
)

func toRule(r *authzpb.Rule) (mesh.Rule, error) {
	var out mesh.Rule
	for _, c := range r.GetClauses() {
		var clause mesh.Clause
		for _, m := range c.GetMatches() {
			match, err := toMatch(m)
			if err != nil {
				return mesh.Rule{}, err
			}
			clause.Matches = append(clause.Matches, match)
		}
		out.Clauses = append(out.Clauses, clause)
	}
	return out, nil
}

func toMatch(m *authzpb.Match) (mesh.Match, error) {
	if len(m.GetExtensions()) > 0 {
		return mesh.Match{}, errors.New("match has an extension, none is known")
	}
	var out mesh.Match
	err := errors.Join(
		read(&out.Namespaces, m.GetNamespaces(), toString),
		read(&out.NotNamespaces, m.GetNotNamespaces(), toString),
		read(&out.Principals, m.GetPrincipals(), toString),
		read(&out.NotPrincipals, m.GetNotPrincipals(), toString),
		read(&out.ServiceAccounts, m.GetServiceAccounts(), toAccount),
		read(&out.NotServiceAccounts, m.GetNotServiceAccounts(), toAccount),
		read(&out.SourceIPs, m.GetSourceIps(), toPrefix),
		read(&out.NotSourceIPs, m.GetNotSourceIps(), toPrefix),
		read(&out.DestinationIPs, m.GetDestinationIps(), toPrefix),
		read(&out.NotDestinationIPs, m.GetNotDestinationIps(), toPrefix),
		read(&out.DestinationPorts, m.GetDestinationPorts(), parsePort),
		read(&out.NotDestinationPorts, m.GetNotDestinationPorts(), parsePort),
	)
	return out, err
}

// read converts one attribute's list; the first value that can't be read ends it.
func read[A, B any](into *[]B, from []A, f func(A) (B, error)) error {
	for _, a := range from {
		b, err := f(a)
		if err != nil {
			return err
		}
		*into = append(*into, b)
	}
	return nil
}

func toString(m *authzpb.StringMatch) (mesh.StringMatch, error) {
	switch t := m.GetMatchType().(type) {
	case *authzpb.StringMatch_Exact:
		return mesh.StringMatch{Kind: mesh.MatchExact, Value: t.Exact}, nil
	case *authzpb.StringMatch_Prefix:
		return mesh.StringMatch{Kind: mesh.MatchPrefix, Value: t.Prefix}, nil
	case *authzpb.StringMatch_Suffix:
		return mesh.StringMatch{Kind: mesh.MatchSuffix, Value: t.Suffix}, nil
	case *authzpb.StringMatch_Presence:
		return mesh.StringMatch{Kind: mesh.MatchPresence}, nil
	default:
		return mesh.StringMatch{}, errors.New("string match has no kind")
	}
}

func toAccount(m *authzpb.ServiceAccountMatch) (mesh.Name, error) {
	n := mesh.Name{Namespace: m.GetNamespace(), Name: m.GetServiceAccount()}
	if n.Namespace == "" || n.Name == "" {
		return mesh.Name{}, fmt.Errorf("service account %q: want namespace and name", n)
	}
	return n, nil
}

func toPrefix(m *authzpb.Address) (netip.Prefix, error) {
	return parsePrefix(m.GetAddress(), m.GetLength())
}
