// SPDX-License-Identifier: Apache-2.0

// Package authz evaluates L4 authorization policy. It is pure; the semantics are those of Istio's
// security.Authorization as ambient's ztunnel applies them, but a policy that is referenced and not known is
// never skipped: the connection waits for it, then fails.
//
// Evaluate looks at every policy and says by that what the semantics are. An Evaluator gives the same answers
// from an index, at a cost that does not grow with the number of policies.
package authz

import (
	"cmp"
	"net/netip"
	"slices"

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
	// Policy that decided, and the index of its rule that matched, -1 when none did. Where no ALLOW policy
	// matched, it is one of them, of the narrowest scope. Zero where no policy decided.
	Policy mesh.Name
	Rule   int
	// StrictBy is the kind of object by which mutual TLS is demanded, where that is why it was refused.
	StrictBy string
	// DryRun lists what policies that are not enforced would have done, Audit the AUDIT policies that matched;
	// both in the order of names. Neither changes the outcome.
	DryRun, Audit []Note
	// Need is a policy the destination references that is not known yet: wait for it, up to the wait of
	// every Need. Nothing is allowed meanwhile; Reason already says POLICY_UNKNOWN.
	Need mesh.Name
}

// Text is the sentence an operator reads beside the reason.
func (d Decision) Text() string {
	if d.StrictBy != "" {
		return d.StrictBy + " " + d.Reason.Text()
	}
	return d.Reason.Text()
}

// Note is a policy that matched and is not enforced, and its first rule that did.
type Note struct {
	Policy mesh.Name
	Action mesh.Action
	Rule   int
}

// Evaluate decides whether dst accepts the connection: a matching DENY refuses; without an ALLOW policy all
// is allowed; a matching ALLOW allows; otherwise it is refused. Policies of the mesh, of the destination's
// namespace and those the destination references apply.
func Evaluate(snap *mesh.Snapshot, dst *mesh.Workload, c Connection) Decision {
	return Explain(snap, dst, c, nil)
}

// Explain is Evaluate, and tells considered, unless nil, of each policy that applies, in order.
func Explain(snap *mesh.Snapshot, dst *mesh.Workload, c Connection, considered func(Verdict)) Decision {
	policies, unknown := applying(snap, dst)
	f := findings{policies: policies, unknown: unknown, firstAllow: none, deny: nothing, allow: nothing}
	p := newPeer(c)
	for rank, pol := range policies {
		f.noteAllow(rank)
		rule := match(pol, &p)
		if considered != nil {
			considered(Verdict{Policy: pol, Rule: rule, peer: &p})
		}
		if rule < 0 {
			continue
		}
		r := ref{int32(rank), int32(rule)}
		switch {
		case !enforced(pol):
			f.notes = append(f.notes, r)
		case pol.Action == mesh.Deny && r.before(f.deny):
			f.deny = r
		case pol.Action == mesh.Allow && r.before(f.allow):
			f.allow = r
		}
	}
	return f.decide()
}

// applying are the policies that apply to dst, each once, in the order in which one of several is named:
// STRICT first, because it tells most, then by name, so that the same connection always gets the same answer.
// unknown is one that dst references and nobody knows. Whom a policy is meant for says the reference, whatever the
// policy's scope.
func applying(snap *mesh.Snapshot, dst *mesh.Workload) (out []*mesh.Policy, unknown mesh.Name) {
	snap.PoliciesFor(dst.Namespace, func(p *mesh.Policy) bool { out = append(out, p); return true })
	for _, n := range dst.Policies {
		if p := snap.Policy(n); p != nil {
			out = append(out, p)
		} else {
			unknown = n
		}
	}
	slices.SortFunc(out, func(a, b *mesh.Policy) int {
		if a.Strict != b.Strict {
			return map[bool]int{true: -1, false: 1}[a.Strict]
		}
		return cmp.Or(cmp.Compare(a.Name.Namespace, b.Name.Namespace), cmp.Compare(a.Name.Name, b.Name.Name))
	})
	return slices.Compact(out), unknown
}

func enforced(p *mesh.Policy) bool { return !p.DryRun && p.Action != mesh.Audit }

// ref is a rule of one of the policies that apply, in their order.
type ref struct{ rank, rule int32 }

const none = -1

// nothing stands for no rule; every rule comes before it.
var nothing = ref{rank: 1<<31 - 1}

func (r ref) before(o ref) bool { return r.rank < o.rank || r.rank == o.rank && r.rule < o.rule }

// findings are what matched.
type findings struct {
	policies    []*mesh.Policy
	unknown     mesh.Name
	firstAllow  int32 // rank of the ALLOW policy that is named when none matches, or none
	deny, allow ref   // the first that match, or nothing
	notes       []ref // by rank
}

// noteAllow takes note of an enforced ALLOW policy; of several the first of the narrowest scope is named, which
// is the one that its author most likely wants to hear of.
func (f *findings) noteAllow(rank int) {
	p := f.policies[rank]
	if enforced(p) && p.Action == mesh.Allow && (f.firstAllow == none || p.Scope > f.policies[f.firstAllow].Scope) {
		f.firstAllow = int32(rank)
	}
}

func (f *findings) decide() Decision {
	d := Decision{Rule: none}
	for _, r := range f.notes {
		p := f.policies[r.rank]
		if n := (Note{Policy: p.Name, Action: p.Action, Rule: int(r.rule)}); p.DryRun {
			d.DryRun = append(d.DryRun, n)
		} else {
			d.Audit = append(d.Audit, n)
		}
	}
	switch {
	case f.deny != nothing:
		d.Policy, d.Rule, d.Reason = f.policies[f.deny.rank].Name, int(f.deny.rule), reason.PolicyDeny
		if d.StrictBy = f.policies[f.deny.rank].StrictBy(); d.StrictBy != "" {
			d.Reason = reason.StrictMTLS
		}
	case !f.unknown.IsZero():
		d.Reason, d.Need = reason.PolicyUnknown, f.unknown
	case f.allow != nothing:
		d.Allowed, d.Policy, d.Rule = true, f.policies[f.allow.rank].Name, int(f.allow.rule)
	case f.firstAllow != none:
		d.Reason, d.Policy = reason.PolicyNoAllow, f.policies[f.firstAllow].Name
	default:
		d.Allowed = true
	}
	return d
}
