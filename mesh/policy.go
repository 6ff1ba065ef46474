// SPDX-License-Identifier: Apache-2.0

package mesh

import (
	"net/netip"
	"strings"
)

// Scope says which workloads a policy applies to.
type Scope uint8

const (
	// ScopeMesh: every workload (the policy lies in the root namespace).
	ScopeMesh Scope = iota
	// ScopeNamespace: every workload of the policy's namespace.
	ScopeNamespace
	// ScopeWorkload: the workloads that reference it in Workload.Policies.
	ScopeWorkload
)

// Action is what a matching policy does.
type Action uint8

const (
	// Allow permits a connection; as soon as one Allow policy applies, what none matches is refused.
	Allow Action = iota
	// Deny refuses a connection.
	Deny
	// Audit reports a connection and never changes the outcome.
	Audit
)

var actionNames = [...]string{"ALLOW", "DENY", "AUDIT"}

// String is the action as AuthorizationPolicy writes it.
func (a Action) String() string {
	if int(a) < len(actionNames) {
		return actionNames[a]
	}
	return "unknown"
}

// Policy is an L4 authorization policy: the OR of its rules. Immutable. Semantics are those of Istio's
// security.Authorization: no rules never match; a rule is the AND of its clauses; a clause the OR of its
// matches; within a match every attribute must hold: positives ANY, negatives NONE. An empty clause list or
// an empty clause matches; a match with no attribute set never does.
type Policy struct {
	Name   Name
	Scope  Scope
	Action Action
	Rules  []Rule
	// DryRun: evaluated and logged, never enforced. An Audit policy that is also DryRun is only logged.
	DryRun bool
	// Strict marks a policy converted from a demand of mutual TLS, so that a refusal can say STRICT_MTLS.
	Strict bool
}

// MeshConfigStrict is the name, in the root namespace, of the Strict policy that a MeshConfig's STRICT becomes. No object's
// name has an underscore.
const MeshConfigStrict = "converted_mesh_config_strict"

// StrictBy is the kind of object that a Strict policy was converted from; "" of any other policy.
func (p *Policy) StrictBy() string {
	switch {
	case !p.Strict:
		return ""
	case p.Name.Name == MeshConfigStrict:
		return "MeshConfig"
	}
	return "PeerAuthentication"
}

// Rule is the AND of clauses.
type Rule struct{ Clauses []Clause }

// Clause is the OR of matches.
type Clause struct{ Matches []Match }

// Match is the AND over its attributes.
type Match struct {
	Namespaces, NotNamespaces             []StringMatch
	Principals, NotPrincipals             []StringMatch
	ServiceAccounts, NotServiceAccounts   []Name
	SourceIPs, NotSourceIPs               []netip.Prefix
	DestinationIPs, NotDestinationIPs     []netip.Prefix
	DestinationPorts, NotDestinationPorts []uint16
}

// IsZero reports whether no attribute is set.
func (m *Match) IsZero() bool {
	return len(m.Namespaces)+len(m.NotNamespaces)+len(m.Principals)+len(m.NotPrincipals)+
		len(m.ServiceAccounts)+len(m.NotServiceAccounts)+len(m.SourceIPs)+len(m.NotSourceIPs)+
		len(m.DestinationIPs)+len(m.NotDestinationIPs)+len(m.DestinationPorts)+len(m.NotDestinationPorts) == 0
}

// MatchKind is how a StringMatch compares.
type MatchKind uint8

const (
	// MatchExact compares the whole string.
	MatchExact MatchKind = iota
	// MatchPrefix compares the beginning.
	MatchPrefix
	// MatchSuffix compares the end.
	MatchSuffix
	// MatchPresence holds for any non-empty string.
	MatchPresence
)

// StringMatch compares one attribute.
type StringMatch struct {
	Kind  MatchKind
	Value string
}

// Matches reports whether s fits; the empty string (attribute absent) never fits.
func (m StringMatch) Matches(s string) bool {
	if s == "" {
		return false
	}
	switch m.Kind {
	case MatchExact:
		return s == m.Value
	case MatchPrefix:
		return strings.HasPrefix(s, m.Value)
	case MatchSuffix:
		return strings.HasSuffix(s, m.Value)
	default:
		return true
	}
}
