// SPDX-License-Identifier: Apache-2.0

package kube

import (
	"encoding/json"

	securityv1beta1 "istio.io/api/security/v1beta1"
	typev1beta1 "istio.io/api/type/v1beta1"
	istiosecurity "istio.io/client-go/pkg/apis/security/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/util/validation"

	"github.com/warren-mesh/warren/api/v1alpha1"
	"github.com/warren-mesh/warren/mesh"
)

// standIn closes what a refused policy may have been meant to close, where there is no last good one: not every process
// has one, and none after a restart. An ALLOW allows nothing, a DENY denies all, a PeerAuthentication is STRICT, each
// for the pods it selects; with a selector that can't be read, for its namespace. A namespace leaves its pods as they are.
func (t *Translator) standIn(k Key, o runtime.Object) {
	switch o := o.(type) {
	case *corev1.Namespace:
		t.refuseNamespace(k)
	case *istiosecurity.AuthorizationPolicy:
		if old := t.authz[k.meshName()]; old == nil || old.standIn {
			t.setAuthz(k.meshName(), authzStandIn(o, t.cfg.RootNamespace))
		}
	case *v1alpha1.MeshConfig:
		t.refuseMeshConfig(o)
	case *istiosecurity.PeerAuthentication:
		if old := t.peerAuths[k.Namespace][k.Name]; old == nil || old.standIn {
			t.setPeerAuth(k, peerAuthStandIn(o, t.cfg.RootNamespace))
		}
	}
}

// StandIns completes the problems of objects that something stands in for.
func (t *Translator) StandIns(ps []Problem) {
	for i, p := range ps {
		k, ok := ParseKey(p.Object)
		if !ok || p.Partial {
			continue
		}
		a, pa := t.authz[k.meshName()], t.peerAuths[k.Namespace][k.Name]
		switch {
		case k.Kind == "Namespace" && t.namespaces[k.Name] == unreadable:
			ps[i].InForce = "until it is corrected its pods are left as they were, and new ones do not start"
		case k.Kind == "AuthorizationPolicy" && a != nil && a.standIn && a.policy != nil && a.policy.Action == mesh.Allow:
			ps[i].InForce = "until it is corrected it allows nothing to the pods it selects"
		case k.Kind == "AuthorizationPolicy" && a != nil && a.standIn && a.policy != nil:
			ps[i].InForce = "until it is corrected every connection to the pods it selects is refused"
		case k.Kind == "PeerAuthentication" && pa != nil && pa.standIn:
			ps[i].InForce = "until it is corrected the pods it selects refuse plaintext"
		}
	}
}

// authzStandIn is nil for a policy that would refuse nobody at L4, and for one whose name may be another's.
func authzStandIn(o *istiosecurity.AuthorizationPolicy, root string) *authzPolicy {
	dry, _ := dryRun(o.Annotations)
	switch action := o.Spec.GetAction(); {
	case dry, action == securityv1beta1.AuthorizationPolicy_AUDIT, action == securityv1beta1.AuthorizationPolicy_CUSTOM,
		len(o.Spec.GetTargetRefs()) > 0, o.Spec.GetTargetRef() != nil, //nolint:staticcheck // older objects have it
		len(validation.IsDNS1123Subdomain(o.Name)) > 0:
		return nil
	}
	ap := &authzPolicy{standIn: true, selector: readableSelector(o.Spec.GetSelector())}
	ap.policy = &mesh.Policy{Name: mesh.Name{Namespace: o.Namespace, Name: o.Name}, Scope: scopeOf(ap.selector, o.Namespace, root)}
	if o.Spec.GetAction() != securityv1beta1.AuthorizationPolicy_ALLOW {
		ap.policy.Action, ap.policy.Rules = mesh.Deny, []mesh.Rule{{}}
	}
	return ap
}

// peerAuthStandIn is nil where a PeerAuthentication would not be applied.
func peerAuthStandIn(o *istiosecurity.PeerAuthentication, root string) *peerAuth {
	pa := &peerAuth{standIn: true, name: o.Name, created: o.CreationTimestamp.Time, mode: modeStrict, selector: readableSelector(o.Spec.GetSelector())}
	if len(pa.selector) > 0 && o.Namespace == root {
		return nil
	}
	return pa
}

// readableSelector is the labels to select by; none, which is every pod, when they can't be read.
func readableSelector(s *typev1beta1.WorkloadSelector) map[string]string {
	labels, errs := selectorFrom(nil, s)
	if len(errs) > 0 {
		return nil
	}
	return labels
}

// Remnant is what can be read of a policy that can't be read as a whole: its name, its age, what it does and to whom; of a
// namespace its name. j is the object's JSON. nil for other kinds.
func Remnant(k Key, j []byte) runtime.Object {
	var o struct{ Metadata, Spec map[string]json.RawMessage }
	_ = json.Unmarshal(j, &o) // what is not there is not there
	m := metav1.ObjectMeta{Namespace: k.Namespace, Name: k.Name}
	_ = json.Unmarshal(o.Metadata["creationTimestamp"], &m.CreationTimestamp)
	if k.Kind == "Namespace" {
		return &corev1.Namespace{ObjectMeta: m}
	}
	if k.Kind == "MeshConfig" {
		_ = json.Unmarshal(o.Metadata["generation"], &m.Generation)
		return meshConfigRemnant(m, j)
	}
	selector := &typev1beta1.WorkloadSelector{}
	if s := o.Spec["selector"]; len(strictProto("", s, selector.ProtoReflect().Descriptor())) > 0 || json.Unmarshal(s, selector) != nil {
		selector = nil
	}
	switch k.Kind {
	case "AuthorizationPolicy":
		_ = json.Unmarshal(o.Metadata["annotations"], &m.Annotations)
		p := &istiosecurity.AuthorizationPolicy{ObjectMeta: m}
		p.Spec.Selector, p.Spec.Action = selector, actionIn(o.Spec["action"])
		var targets []json.RawMessage
		if json.Unmarshal(o.Spec["targetRefs"], &targets) == nil && len(targets) > 0 || len(o.Spec["targetRef"]) > 0 {
			p.Spec.TargetRefs = []*typev1beta1.PolicyTargetReference{{}}
		}
		return p
	case "PeerAuthentication":
		p := &istiosecurity.PeerAuthentication{ObjectMeta: m}
		p.Spec.Selector = selector
		return p
	}
	return nil
}

// actionIn is the action a word names, DENY for one that is unknown: it closes most.
func actionIn(j json.RawMessage) securityv1beta1.AuthorizationPolicy_Action {
	var word string
	if len(j) == 0 {
		return securityv1beta1.AuthorizationPolicy_ALLOW
	}
	_ = json.Unmarshal(j, &word)
	if a, ok := securityv1beta1.AuthorizationPolicy_Action_value[word]; ok {
		return securityv1beta1.AuthorizationPolicy_Action(a)
	}
	return securityv1beta1.AuthorizationPolicy_DENY
}
