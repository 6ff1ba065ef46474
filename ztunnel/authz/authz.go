// SPDX-License-Identifier: Apache-2.0

// Package authz evaluates L4 authorization policy. It is pure; the semantics are those of Istio's
// security.Authorization as ambient's ztunnel applies them, but a policy that is referenced and not known is
// never skipped: the connection waits for it, then fails.
package authz

import (
	"net/netip"

	"github.com/warren-mesh/warren/mesh"
	"github.com/warren-mesh/warren/mesh/reason"
)

// Connection is what policy may look at.
type Connection struct {
	// Identity of the peer's certificate; zero for plaintext.
	Identity mesh.Identity
	// Source is the peer's address on the wire.
	Source netip.Addr
	// Destination is the pod's address and the application's port, not 15008.
	Destination netip.AddrPort
}

// Decision is the outcome for one connection.
type Decision struct {
	Allowed bool
	// Reason of a refusal; None when allowed.
	Reason reason.Reason
	// Policy that decided, and the index of its rule that matched. Zero, and -1, when none did.
	Policy mesh.Name
	Rule   int
	// DryRun lists what policies that are not enforced would have done.
	DryRun []Note
	// Need is a policy the destination references that is not known yet: wait for it, up to the wait of
	// every Need. Nothing is allowed meanwhile; Reason already says POLICY_UNKNOWN.
	Need mesh.Name
}

// Note is a dry-run policy that matched.
type Note struct {
	Policy mesh.Name
	Action mesh.Action
	Rule   int
}

// Evaluate decides whether dst accepts the connection: a matching DENY refuses; without an ALLOW policy all
// is allowed; a matching ALLOW allows; otherwise it is refused. Policies of the mesh, of the destination's
// namespace and those the destination references apply.
func Evaluate(snap *mesh.Snapshot, dst *mesh.Workload, c Connection) Decision {
	c.Source = c.Source.Unmap()
	c.Destination = netip.AddrPortFrom(c.Destination.Addr().Unmap(), c.Destination.Port())
	e := evaluation{conn: &c, rule: -1}
	snap.PoliciesFor(dst.Namespace, func(p *mesh.Policy) bool { e.add(p); return true })
	var unknown mesh.Name
	for _, n := range dst.Policies {
		switch p := snap.Policy(n); {
		case p == nil:
			unknown = n
		case p.Scope == mesh.ScopeWorkload:
			e.add(p)
		}
	}
	return e.decide(unknown)
}

// evaluation gathers what matched so far.
type evaluation struct {
	conn   *Connection
	deny   *mesh.Policy // the matching DENY to name
	allow  *mesh.Policy // the matching ALLOW to name
	rule   int          // of deny
	allowR int
	allows bool // an enforced ALLOW policy applies
	notes  []Note
}

func (e *evaluation) add(p *mesh.Policy) {
	if p.Action == mesh.Allow && !p.DryRun {
		e.allows = true
	}
	rule := match(p, e.conn)
	switch {
	case rule < 0:
	case p.DryRun:
		e.notes = append(e.notes, Note{Policy: p.Name, Action: p.Action, Rule: rule})
	case p.Action == mesh.Deny && before(p, e.deny):
		e.deny, e.rule = p, rule
	case p.Action == mesh.Allow && before(p, e.allow):
		e.allow, e.allowR = p, rule
	}
}

// before picks which of several matching policies is named: STRICT first, because it tells most, then by
// name, so that the same connection always gets the same answer.
func before(p, than *mesh.Policy) bool {
	switch {
	case than == nil:
		return true
	case p.Strict != than.Strict:
		return p.Strict
	}
	return p.Name.String() < than.Name.String()
}

func (e *evaluation) decide(unknown mesh.Name) Decision {
	d := Decision{Rule: -1, DryRun: e.notes}
	switch {
	case e.deny != nil && e.deny.Strict:
		d.Reason, d.Policy, d.Rule = reason.StrictMTLS, e.deny.Name, e.rule
	case e.deny != nil:
		d.Reason, d.Policy, d.Rule = reason.PolicyDeny, e.deny.Name, e.rule
	case !unknown.IsZero():
		d.Reason, d.Need = reason.PolicyUnknown, unknown
	case e.allow != nil:
		d.Allowed, d.Policy, d.Rule = true, e.allow.Name, e.allowR
	case e.allows:
		d.Reason = reason.PolicyNoAllow
	default:
		d.Allowed = true
	}
	return d
}
