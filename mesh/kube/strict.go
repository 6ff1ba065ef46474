// SPDX-License-Identifier: Apache-2.0

package kube

import (
	"maps"
	"slices"

	"github.com/warren-mesh/warren/mesh"
)

const (
	// StrictPolicy is the name, in the root namespace, of the DENY policy that PeerAuthentication STRICT
	// becomes, as in ambient.
	StrictPolicy = "istio_converted_static_strict"
	// PortPolicyPrefix begins the name, in its own namespace, of the DENY policy that a PeerAuthentication
	// becomes whose ports differ, as in ambient. No object's name has an underscore.
	PortPolicyPrefix = "converted_peer_authentication_"
)

// strictName is the name of the policy by which everything is STRICT: byConfig, because the MeshConfig says so, else a
// PeerAuthentication.
func (t *Translator) strictName(byConfig bool) mesh.Name {
	if byConfig {
		return mesh.Name{Namespace: t.cfg.RootNamespace, Name: mesh.MeshConfigStrict}
	}
	return mesh.Name{Namespace: t.cfg.RootNamespace, Name: StrictPolicy}
}

// peerPolicy is the policy that holds a pod to mutual TLS, if one does: by the PeerAuthentication that selects
// it, else by its namespace's or the mesh's.
func (t *Translator) peerPolicy(p *pod) (mesh.Name, bool) {
	ns := p.name.Namespace
	pa := t.oldest(ns, func(pa *peerAuth) bool { return len(pa.selector) > 0 && selected(pa.selector, p.labels) })
	if pa == nil {
		strict, byConfig := t.strict(ns)
		return t.strictName(byConfig), strict
	}
	strict, byConfig, others := t.byPort(ns, pa)
	if len(others) == 0 {
		return t.strictName(byConfig), strict
	}
	return mesh.Name{Namespace: ns, Name: PortPolicyPrefix + pa.name}, true
}

// byPort is what a PeerAuthentication says, with UNSET resolved: whether it is STRICT, whether that is the MeshConfig's
// word, and the ports where it is the other way, in order.
func (t *Translator) byPort(namespace string, pa *peerAuth) (strict, byConfig bool, others []uint16) {
	if strict = pa.mode == modeStrict; pa.mode == modeUnset {
		strict, byConfig = t.strict(namespace)
	}
	for _, port := range slices.Sorted(maps.Keys(pa.ports)) {
		if mode := pa.ports[port]; mode != modeUnset && (mode == modeStrict) != strict {
			others = append(others, port)
		}
	}
	return strict, byConfig, others
}

// peerPolicies are the policies that all PeerAuthentications and the MeshConfig together become.
func (t *Translator) peerPolicies() map[mesh.Name]*mesh.Policy {
	out := map[mesh.Name]*mesh.Policy{}
	everything := func(strict, byConfig bool) {
		if name := t.strictName(byConfig); strict {
			out[name] = strictPolicy(name, mesh.Match{})
		}
	}
	everything(t.strict(t.cfg.RootNamespace)) // and with it every namespace that says nothing of its own
	for ns, pas := range t.peerAuths {
		everything(t.strict(ns))
		for _, pa := range pas {
			if len(pa.selector) == 0 {
				continue
			}
			name := mesh.Name{Namespace: ns, Name: PortPolicyPrefix + pa.name}
			switch strict, byConfig, others := t.byPort(ns, pa); {
			case len(others) > 0 && strict:
				out[name] = strictPolicy(name, mesh.Match{NotDestinationPorts: others})
			case len(others) > 0:
				out[name] = strictPolicy(name, mesh.Match{DestinationPorts: others})
			default:
				everything(strict, byConfig)
			}
		}
	}
	return out
}

// strictPolicy denies every peer that shows no identity, where m matches.
func strictPolicy(name mesh.Name, m mesh.Match) *mesh.Policy {
	m.NotPrincipals = []mesh.StringMatch{{Kind: mesh.MatchPresence}}
	return &mesh.Policy{
		Name: name, Scope: mesh.ScopeWorkload, Action: mesh.Deny, Strict: true,
		Rules: []mesh.Rule{{Clauses: []mesh.Clause{{Matches: []mesh.Match{m}}}}},
	}
}
