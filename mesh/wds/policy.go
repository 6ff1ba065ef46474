// SPDX-License-Identifier: Apache-2.0

package wds

import (
	"errors"
	"fmt"
	"net/netip"
	"strings"

	"google.golang.org/protobuf/types/known/emptypb"

	"github.com/warren-mesh/warren/mesh"
	"github.com/warren-mesh/warren/mesh/wds/authzpb"
	"github.com/warren-mesh/warren/mesh/wds/warrenpb"
)

// FromPolicy returns the message for p.
func FromPolicy(p *mesh.Policy) *authzpb.Authorization {
	m := &authzpb.Authorization{
		Name: p.Name.Name, Namespace: p.Name.Namespace,
		Scope: authzpb.Scope(p.Scope), Action: authzpb.Action(p.Action), DryRun: p.DryRun,
	}
	for _, r := range p.Rules {
		rule := &authzpb.Rule{}
		for _, c := range r.Clauses {
			clause := &authzpb.Clause{}
			for _, match := range c.Matches {
				clause.Matches = append(clause.Matches, fromMatch(match))
			}
			rule.Clauses = append(rule.Clauses, clause)
		}
		m.Rules = append(m.Rules, rule)
	}
	x := &warrenpb.PolicyExtension{Strict: p.Strict}
	if p.Action == mesh.Audit {
		m.Action, m.DryRun = authzpb.Action_DENY, true
		x.Audit, x.AuditDryRun = true, p.DryRun
	}
	if x.Strict || x.Audit {
		if a, err := encode(x); err == nil {
			m.Extensions = []*authzpb.Extension{{Name: extensionName, Config: a}}
		}
	}
	return m
}

func fromMatch(m mesh.Match) *authzpb.Match {
	return &authzpb.Match{
		Namespaces: convert(m.Namespaces, fromString), NotNamespaces: convert(m.NotNamespaces, fromString),
		Principals: convert(m.Principals, fromString), NotPrincipals: convert(m.NotPrincipals, fromString),
		ServiceAccounts: convert(m.ServiceAccounts, fromAccount), NotServiceAccounts: convert(m.NotServiceAccounts, fromAccount),
		SourceIps: convert(m.SourceIPs, fromPrefix), NotSourceIps: convert(m.NotSourceIPs, fromPrefix),
		DestinationIps: convert(m.DestinationIPs, fromPrefix), NotDestinationIps: convert(m.NotDestinationIPs, fromPrefix),
		DestinationPorts:    convert(m.DestinationPorts, func(p uint16) uint32 { return uint32(p) }),
		NotDestinationPorts: convert(m.NotDestinationPorts, func(p uint16) uint32 { return uint32(p) }),
	}
}

func fromString(s mesh.StringMatch) *authzpb.StringMatch {
	m := &authzpb.StringMatch{}
	switch s.Kind {
	case mesh.MatchExact:
		m.MatchType = &authzpb.StringMatch_Exact{Exact: s.Value}
	case mesh.MatchPrefix:
		m.MatchType = &authzpb.StringMatch_Prefix{Prefix: s.Value}
	case mesh.MatchSuffix:
		m.MatchType = &authzpb.StringMatch_Suffix{Suffix: s.Value}
	default:
		m.MatchType = &authzpb.StringMatch_Presence{Presence: &emptypb.Empty{}}
	}
	return m
}

func fromAccount(n mesh.Name) *authzpb.ServiceAccountMatch {
	return &authzpb.ServiceAccountMatch{Namespace: n.Namespace, ServiceAccount: n.Name}
}

func fromPrefix(p netip.Prefix) *authzpb.Address {
	return &authzpb.Address{Address: p.Addr().AsSlice(), Length: uint32(p.Bits())}
}

func convert[A, B any](in []A, f func(A) B) []B {
	var out []B
	for _, a := range in {
		out = append(out, f(a))
	}
	return out
}

// ToPolicy returns the policy a message stands for. What it can't judge it refuses as a whole: a condition
// left out would make an ALLOW wider.
func ToPolicy(m *authzpb.Authorization) (*mesh.Policy, error) {
	name, err := policyName(m)
	if err != nil {
		return nil, err
	}
	if m.Scope < authzpb.Scope_GLOBAL || m.Scope > authzpb.Scope_WORKLOAD_SELECTOR {
		return nil, fmt.Errorf("scope %d is unknown", m.Scope)
	}
	if m.Action < authzpb.Action_ALLOW || m.Action > authzpb.Action_DENY {
		return nil, fmt.Errorf("action %d is unknown", m.Action)
	}
	x := &warrenpb.PolicyExtension{}
	if _, err := unpack(m.Extensions, x); err != nil {
		return nil, err
	}
	p := &mesh.Policy{
		Name: name, Scope: mesh.Scope(m.Scope), Action: mesh.Action(m.Action), DryRun: m.DryRun,
		Strict: x.Strict || convertedStrict(m.Name),
	}
	if x.Audit {
		if m.Action != authzpb.Action_DENY || !m.DryRun {
			return nil, errors.New("an audit policy is sent as DENY with dry_run")
		}
		p.Action, p.DryRun = mesh.Audit, x.AuditDryRun
	}
	for i, r := range m.Rules {
		rule, err := toRule(r)
		if err != nil {
			return nil, fmt.Errorf("rule %d: %w", i, err)
		}
		p.Rules = append(p.Rules, rule)
	}
	return p, nil
}

// convertedStrict knows the names under which istiod sends what it made from PeerAuthentication.
func convertedStrict(name string) bool {
	return name == "istio_converted_static_strict" || strings.HasPrefix(name, "converted_peer_authentication_")
}

func policyName(m *authzpb.Authorization) (mesh.Name, error) {
	if m.GetName() == "" || m.GetNamespace() == "" {
		return mesh.Name{}, errors.New("name or namespace is empty")
	}
	return mesh.Name{Namespace: m.Namespace, Name: m.Name}, nil
}

// refusal stands for a policy that could not be read, until one arrives that can: an ALLOW nothing matches
// or a DENY everything matches, of the same scope, so that what it would have judged is refused.
func refusal(m *authzpb.Authorization) (*mesh.Policy, bool) {
	name, err := policyName(m)
	if err != nil || m.DryRun { // an audit says so as well
		return nil, false
	}
	p := &mesh.Policy{Name: name, Scope: mesh.ScopeWorkload, Action: mesh.Deny, Rules: []mesh.Rule{{}}}
	switch m.Scope {
	case authzpb.Scope_GLOBAL:
		p.Scope = mesh.ScopeMesh
	case authzpb.Scope_NAMESPACE:
		p.Scope = mesh.ScopeNamespace
	}
	if m.Action == authzpb.Action_ALLOW {
		p.Action, p.Rules = mesh.Allow, nil
	}
	return p, true
}
