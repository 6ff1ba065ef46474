// SPDX-License-Identifier: Apache-2.0

package kube

import (
	"google.golang.org/protobuf/proto"
	securityv1beta1 "istio.io/api/security/v1beta1"
	"k8s.io/apimachinery/pkg/util/validation/field"

	"github.com/warren-mesh/warren/mesh"
)

// ruleReader turns the rules of one AuthorizationPolicy into those that hold at L4. An attribute that only HTTP
// has is reported: an ALLOW rule that has one is left out, so that the policy allows less; a DENY or AUDIT rule
// loses the attribute, so that it denies or reports more.
type ruleReader struct {
	namespace     string
	action        mesh.Action
	errs, partial field.ErrorList
	beyond        bool // the rule being read has something that L4 does not see
}

func (r *ruleReader) rules(path *field.Path, in []*securityv1beta1.Rule) (out []mesh.Rule) {
	for i, rule := range in {
		at := path.Index(i)
		if rule == nil {
			r.errs = append(r.errs, field.Required(at, "a rule that matches everything is written {}"))
			continue
		}
		r.beyond = false
		converted := r.rule(at, rule)
		if r.action == mesh.Allow && r.beyond {
			continue
		}
		out = append(out, converted)
	}
	return out
}

// rule is the AND of what it has: from, to, and each condition.
func (r *ruleReader) rule(path *field.Path, in *securityv1beta1.Rule) (out mesh.Rule) {
	and := func(ms []mesh.Match) {
		for i := range ms {
			if ms[i].IsZero() { // all it had were HTTP attributes: what is left of it matches everything
				return
			}
		}
		if len(ms) > 0 {
			out.Clauses = append(out.Clauses, mesh.Clause{Matches: ms})
		}
	}
	var from, to []mesh.Match
	for i, f := range in.GetFrom() {
		from = append(from, r.source(path.Child("from").Index(i).Child("source"), f.GetSource()))
	}
	for i, o := range in.GetTo() {
		to = append(to, r.operation(path.Child("to").Index(i).Child("operation"), o.GetOperation()))
	}
	and(from)
	and(to)
	for i, c := range in.GetWhen() {
		and([]mesh.Match{r.condition(path.Child("when").Index(i), c)})
	}
	return out
}

// source is the AND of a source's attributes.
func (r *ruleReader) source(path *field.Path, s *securityv1beta1.Source) (m mesh.Match) {
	if proto.Size(s) == 0 {
		r.errs = append(r.errs, field.Required(path, "a source has at least one attribute"))
		return m
	}
	accounts := len(s.ServiceAccounts)+len(s.NotServiceAccounts) > 0
	if accounts && len(s.Principals)+len(s.NotPrincipals)+len(s.Namespaces)+len(s.NotNamespaces) > 0 {
		r.errs = append(r.errs, field.Forbidden(path.Child("serviceAccounts"), "not together with principals or namespaces"))
	}
	m.Principals = r.principals(path.Child("principals"), s.Principals)
	m.NotPrincipals = r.principals(path.Child("notPrincipals"), s.NotPrincipals)
	m.Namespaces = r.words(path.Child("namespaces"), s.Namespaces)
	m.NotNamespaces = r.words(path.Child("notNamespaces"), s.NotNamespaces)
	m.ServiceAccounts = r.accounts(path.Child("serviceAccounts"), s.ServiceAccounts)
	m.NotServiceAccounts = r.accounts(path.Child("notServiceAccounts"), s.NotServiceAccounts)
	m.SourceIPs = r.blocks(path.Child("ipBlocks"), s.IpBlocks)
	m.NotSourceIPs = r.blocks(path.Child("notIpBlocks"), s.NotIpBlocks)
	r.blocks(path.Child("remoteIpBlocks"), s.RemoteIpBlocks)
	r.blocks(path.Child("notRemoteIpBlocks"), s.NotRemoteIpBlocks)
	r.http(path.Child("requestPrincipals"), s.RequestPrincipals)
	r.http(path.Child("notRequestPrincipals"), s.NotRequestPrincipals)
	r.http(path.Child("remoteIpBlocks"), s.RemoteIpBlocks)
	r.http(path.Child("notRemoteIpBlocks"), s.NotRemoteIpBlocks)
	return m
}

// operation is the AND of an operation's attributes.
func (r *ruleReader) operation(path *field.Path, o *securityv1beta1.Operation) (m mesh.Match) {
	if proto.Size(o) == 0 {
		r.errs = append(r.errs, field.Required(path, "an operation has at least one attribute"))
		return m
	}
	m.DestinationPorts = r.ports(path.Child("ports"), o.Ports)
	m.NotDestinationPorts = r.ports(path.Child("notPorts"), o.NotPorts)
	r.http(path.Child("hosts"), o.Hosts)
	r.http(path.Child("notHosts"), o.NotHosts)
	r.http(path.Child("methods"), o.Methods)
	r.http(path.Child("notMethods"), o.NotMethods)
	r.http(path.Child("paths"), o.Paths)
	r.http(path.Child("notPaths"), o.NotPaths)
	return m
}

// http notes an attribute that L4 does not see.
func (r *ruleReader) http(path *field.Path, values []string) {
	if len(values) > 0 {
		r.unseen(path, "an HTTP attribute")
	}
}

func (r *ruleReader) unseen(path *field.Path, what string) {
	r.beyond = true
	effect := map[mesh.Action]string{
		mesh.Allow: "its rule is left out, so that the policy allows less",
		mesh.Deny:  "it is left out of its rule, so that the policy denies more",
		mesh.Audit: "it is left out of its rule, so that the policy reports more",
	}[r.action]
	r.partial = append(r.partial, field.Forbidden(path, "not applied at L4: "+what+"; "+effect))
}
