// SPDX-License-Identifier: Apache-2.0

package kube

import (
	"maps"
	"slices"
	"strconv"
	"time"

	securityv1beta1 "istio.io/api/security/v1beta1"
	istiosecurity "istio.io/client-go/pkg/apis/security/v1"
	"k8s.io/apimachinery/pkg/util/validation/field"
)

type tlsMode = securityv1beta1.PeerAuthentication_MutualTLS_Mode

const (
	modeUnset  = securityv1beta1.PeerAuthentication_MutualTLS_UNSET
	modeStrict = securityv1beta1.PeerAuthentication_MutualTLS_STRICT
)

// peerAuth is a PeerAuthentication: of the mesh when it lies in the root namespace, else of its namespace, or of
// the pods it selects there. DISABLE means PERMISSIVE: whether a captured pod is reached by mutual TLS is not
// its own choice.
type peerAuth struct {
	name     string
	created  time.Time
	mode     tlsMode
	selector map[string]string
	ports    map[uint16]tlsMode // only with a selector
	standIn  bool               // for one that was refused
}

// peerAuthFrom reads a PeerAuthentication. partial names what is not applied; the result is nil when nothing is.
func peerAuthFrom(o *istiosecurity.PeerAuthentication, root string) (pa *peerAuth, errs, partial field.ErrorList) {
	spec := field.NewPath("spec")
	pa = &peerAuth{name: o.Name, created: o.CreationTimestamp.Time, mode: o.Spec.GetMtls().GetMode()}
	known := func(path *field.Path, m tlsMode) {
		if _, ok := securityv1beta1.PeerAuthentication_MutualTLS_Mode_name[int32(m)]; !ok {
			errs = append(errs, field.NotSupported(path, m, []string{"UNSET", "DISABLE", "PERMISSIVE", "STRICT"}))
		}
	}
	known(spec.Child("mtls", "mode"), pa.mode)
	var more field.ErrorList
	pa.selector, more = selectorFrom(spec.Child("selector"), o.Spec.GetSelector())
	errs = append(errs, more...)
	byPort := spec.Child("portLevelMtls")
	for _, port := range slices.Sorted(maps.Keys(o.Spec.GetPortLevelMtls())) {
		at := byPort.Key(strconv.FormatUint(uint64(port), 10))
		mode := o.Spec.PortLevelMtls[port].GetMode()
		if port == 0 || port > 65535 {
			errs = append(errs, field.Invalid(at, port, "want a port from 1 to 65535"))
		}
		known(at.Child("mode"), mode)
		if pa.ports == nil {
			pa.ports = map[uint16]tlsMode{}
		}
		pa.ports[uint16(port)] = mode
	}
	if len(errs) > 0 {
		return nil, errs, nil
	}
	switch {
	case len(pa.selector) > 0 && o.Namespace == root:
		partial = append(partial, field.Forbidden(spec.Child("selector"),
			"not applied: in the root namespace only a PeerAuthentication without selector holds, for the whole mesh"))
		return nil, nil, partial
	case len(pa.selector) == 0 && len(pa.ports) > 0:
		partial = append(partial, field.Forbidden(byPort, "not applied: modes by port need a selector"))
		pa.ports = nil
	}
	return pa, nil, partial
}

func (t *Translator) putPeerAuth(k Key, o *istiosecurity.PeerAuthentication) (errs, partial field.ErrorList) {
	pa, errs, partial := peerAuthFrom(o, t.cfg.RootNamespace)
	if len(errs) > 0 {
		return errs, nil
	}
	t.setPeerAuth(k, pa)
	return nil, partial
}

// setPeerAuth replaces the one of a name; nil removes it.
func (t *Translator) setPeerAuth(k Key, pa *peerAuth) {
	if pa == nil {
		t.deletePeerAuth(k)
		return
	}
	m := t.peerAuths[k.Namespace]
	if m == nil {
		m = map[string]*peerAuth{}
		t.peerAuths[k.Namespace] = m
	}
	m[k.Name] = pa
	t.touchPeerAuth(k.Namespace)
}

func (t *Translator) deletePeerAuth(k Key) {
	m := t.peerAuths[k.Namespace]
	if _, ok := m[k.Name]; !ok {
		return
	}
	if delete(m, k.Name); len(m) == 0 {
		delete(t.peerAuths, k.Namespace)
	}
	t.touchPeerAuth(k.Namespace)
}

func (t *Translator) touchPeerAuth(namespace string) {
	t.dirtyPeerAuth = true
	if namespace == t.cfg.RootNamespace {
		for n := range t.pods {
			t.dirtyPods.add(n)
		}
		return
	}
	t.touchNamespace(namespace)
}

// oldest is the one of a namespace that decides, among those that fits accepts: the oldest, ties by name.
func (t *Translator) oldest(namespace string, fits func(*peerAuth) bool) *peerAuth {
	var first *peerAuth
	for _, pa := range t.peerAuths[namespace] {
		if fits(pa) && (first == nil || pa.created.Before(first.created) || pa.created.Equal(first.created) && pa.name < first.name) {
			first = pa
		}
	}
	return first
}

// strict reports whether the namespace's pods take mutual TLS only, unless a PeerAuthentication selects them: its
// own oldest object decides; none, or UNSET, leaves it to the mesh's, and that to the MeshConfig: byConfig says that it
// came to that.
func (t *Translator) strict(namespace string) (strict, byConfig bool) {
	for _, ns := range []string{namespace, t.cfg.RootNamespace} {
		pa := t.oldest(ns, func(pa *peerAuth) bool { return len(pa.selector) == 0 })
		if pa != nil && pa.mode != modeUnset {
			return pa.mode == modeStrict, false
		}
	}
	return t.base().MTLSStrict, true
}
