// SPDX-License-Identifier: Apache-2.0

package authz

import (
	"net/netip"
	"slices"

	"github.com/warren-mesh/warren/mesh"
)

// peer is a connection as the rules see it.
type peer struct {
	Connection
	principal string // of Identity, made once
}

func newPeer(c Connection) peer {
	c.Source = c.Source.Unmap().WithZone("") // no prefix contains an address with a zone
	c.Destination = netip.AddrPortFrom(c.Destination.Addr().Unmap(), c.Destination.Port())
	return peer{Connection: c, principal: c.Identity.Principal()}
}

// match returns the index of the first rule of p that matches, or -1. No rules never match.
func match(p *mesh.Policy, c *peer) int {
	for i := range p.Rules {
		if matchRule(&p.Rules[i], c) {
			return i
		}
	}
	return none
}

// matchRule is the AND of its clauses; no clause matches everything.
func matchRule(r *mesh.Rule, c *peer) bool {
	for i := range r.Clauses {
		if !matchClause(&r.Clauses[i], c) {
			return false
		}
	}
	return true
}

// matchClause is the OR of its matches; an empty clause matches everything.
func matchClause(cl *mesh.Clause, c *peer) bool {
	for i := range cl.Matches {
		if matchAll(&cl.Matches[i], c) {
			return true
		}
	}
	return len(cl.Matches) == 0
}

// matchAll is the AND over attributes that are set; with none set it never matches.
func matchAll(m *mesh.Match, c *peer) bool { return miss(m, c) == missNothing }

// missed is the first attribute of a match that a connection does not have.
type missed uint8

const (
	missNothing missed = iota
	missEverything
	missNamespace
	missPrincipal
	missAccount
	missSource
	missDestination
	missPort
)

var missedNames = [...]string{"", "it names no attribute", "namespace", "principal", "service account", "source address", "destination address", "destination port"}

func miss(m *mesh.Match, c *peer) missed {
	id, dst := c.Identity, c.Destination
	switch {
	case m.IsZero():
		return missEverything
	case !words(m.Namespaces, m.NotNamespaces, id.Namespace):
		return missNamespace
	case !words(m.Principals, m.NotPrincipals, c.principal):
		return missPrincipal
	case len(m.ServiceAccounts) > 0 && c.principal == "",
		!among(m.ServiceAccounts, m.NotServiceAccounts, mesh.Name{Namespace: id.Namespace, Name: id.ServiceAccount}):
		return missAccount
	case !within(m.SourceIPs, m.NotSourceIPs, c.Source):
		return missSource
	case !within(m.DestinationIPs, m.NotDestinationIPs, dst.Addr()):
		return missDestination
	case !among(m.DestinationPorts, m.NotDestinationPorts, dst.Port()):
		return missPort
	}
	return missNothing
}

// holds is one attribute: any of the positives if there are some, and none of the negatives.
func holds[T any](is, not []T, fits func(T) bool) bool {
	return (len(is) == 0 || slices.ContainsFunc(is, fits)) && !slices.ContainsFunc(not, fits)
}

func words(is, not []mesh.StringMatch, s string) bool {
	return holds(is, not, func(m mesh.StringMatch) bool { return m.Matches(s) })
}

func among[T comparable](is, not []T, v T) bool {
	return holds(is, not, func(x T) bool { return x == v })
}

func within(is, not []netip.Prefix, a netip.Addr) bool {
	return holds(is, not, func(p netip.Prefix) bool { return p.Contains(a) })
}
