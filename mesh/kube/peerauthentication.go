// SPDX-License-Identifier: Apache-2.0

package kube

import (
	"time"

	securityv1beta1 "istio.io/api/security/v1beta1"
	istiosecurity "istio.io/client-go/pkg/apis/security/v1"
	"k8s.io/apimachinery/pkg/util/validation/field"

	"github.com/warren-mesh/warren/mesh"
)

// StrictPolicy is the name, in the root namespace, of the DENY policy that PeerAuthentication STRICT
// becomes, as in ambient.
const StrictPolicy = "istio_converted_static_strict"

// peerAuth is a PeerAuthentication of a namespace, or of the mesh when it lies in the root namespace.
type peerAuth struct {
	name    string
	created time.Time
	mode    securityv1beta1.PeerAuthentication_MutualTLS_Mode
}

// peerAuthFrom reads the mesh- or namespace-wide part. partial names what is not applied; the result is nil
// for an object that selects single workloads.
func peerAuthFrom(o *istiosecurity.PeerAuthentication) (pa *peerAuth, errs, partial field.ErrorList) {
	spec := field.NewPath("spec")
	pa = &peerAuth{name: o.Name, created: o.CreationTimestamp.Time, mode: o.Spec.GetMtls().GetMode()}
	known := func(path *field.Path, m securityv1beta1.PeerAuthentication_MutualTLS_Mode) {
		if _, ok := securityv1beta1.PeerAuthentication_MutualTLS_Mode_name[int32(m)]; !ok {
			errs = append(errs, field.NotSupported(path, m, []string{"UNSET", "DISABLE", "PERMISSIVE", "STRICT"}))
		}
	}
	known(spec.Child("mtls", "mode"), pa.mode)
	if len(o.Spec.PortLevelMtls) > 0 {
		partial = append(partial, field.Forbidden(spec.Child("portLevelMtls"), "not applied: modes by port are not supported yet"))
	}
	if len(o.Spec.GetSelector().GetMatchLabels()) > 0 {
		partial = append(partial, field.Forbidden(spec.Child("selector"),
			"not applied: only PeerAuthentications of a whole namespace or of the mesh are supported yet"))
		return nil, errs, partial
	}
	return pa, errs, partial
}

func (t *Translator) putPeerAuth(k Key, o *istiosecurity.PeerAuthentication) (errs, partial field.ErrorList) {
	pa, errs, partial := peerAuthFrom(o)
	if len(errs) > 0 {
		return errs, nil
	}
	if pa == nil {
		t.deletePeerAuth(k)
		return nil, partial
	}
	m := t.peerAuths[k.Namespace]
	if m == nil {
		m = map[string]*peerAuth{}
		t.peerAuths[k.Namespace] = m
	}
	m[k.Name] = pa
	t.touchPolicy(k.Namespace)
	return nil, partial
}

func (t *Translator) deletePeerAuth(k Key) {
	m := t.peerAuths[k.Namespace]
	if _, ok := m[k.Name]; !ok {
		return
	}
	if delete(m, k.Name); len(m) == 0 {
		delete(t.peerAuths, k.Namespace)
	}
	t.touchPolicy(k.Namespace)
}

func (t *Translator) touchPolicy(namespace string) {
	t.dirtyPolicy = true
	if namespace == t.cfg.RootNamespace {
		for n := range t.pods {
			t.dirtyPods.add(n)
		}
		return
	}
	t.touchNamespace(namespace)
}

// strict reports whether the namespace's pods take mutual TLS only: its own oldest object decides (ties by
// name); none, or UNSET, leaves it to the mesh's.
func (t *Translator) strict(namespace string) bool {
	for _, ns := range []string{namespace, t.cfg.RootNamespace} {
		var first *peerAuth
		for _, pa := range t.peerAuths[ns] {
			if first == nil || pa.created.Before(first.created) || pa.created.Equal(first.created) && pa.name < first.name {
				first = pa
			}
		}
		if first != nil && first.mode != securityv1beta1.PeerAuthentication_MutualTLS_UNSET {
			return first.mode == securityv1beta1.PeerAuthentication_MutualTLS_STRICT
		}
	}
	return false
}

// strictName is the converted policy's name.
func (t *Translator) strictName() mesh.Name {
	return mesh.Name{Namespace: t.cfg.RootNamespace, Name: StrictPolicy}
}

// strictPolicy denies every peer that shows no identity; nil while no namespace is STRICT.
func (t *Translator) strictPolicy() *mesh.Policy {
	any := false
	for ns := range t.peerAuths {
		any = any || t.strict(ns)
	}
	if !any {
		return nil
	}
	anyone := []mesh.StringMatch{{Kind: mesh.MatchPresence}}
	return &mesh.Policy{
		Name:   t.strictName(),
		Scope:  mesh.ScopeWorkload,
		Action: mesh.Deny,
		Strict: true,
		Rules:  []mesh.Rule{{Clauses: []mesh.Clause{{Matches: []mesh.Match{{NotPrincipals: anyone}}}}}},
	}
}
