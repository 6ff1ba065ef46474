// SPDX-License-Identifier: Apache-2.0

package kube

import (
	"reflect"
	"slices"
	"strconv"

	securityv1beta1 "istio.io/api/security/v1beta1"
	istiosecurity "istio.io/client-go/pkg/apis/security/v1"
	"k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"

	"github.com/warren-mesh/warren/mesh"
)

// KeyDryRun is an AuthorizationPolicy's annotation; "true" has it evaluated and logged, never enforced.
const KeyDryRun = "istio.io/dry-run"

// authzPolicy is an AuthorizationPolicy as far as it holds at L4.
type authzPolicy struct {
	policy   *mesh.Policy      // nil when nothing of it does
	selector map[string]string // labels of the pods that reference it; only of ScopeWorkload
	standIn  bool              // for one that was refused
}

// authzPolicyFrom reads an AuthorizationPolicy. partial names what is not applied at L4. Principals
// stay as they are written; withAliases adds what they are in the mesh's other trust domains.
func authzPolicyFrom(o *istiosecurity.AuthorizationPolicy, root string) (ap *authzPolicy, errs, partial field.ErrorList) {
	spec := field.NewPath("spec")
	for _, msg := range validation.IsDNS1123Subdomain(o.Name) {
		errs = append(errs, field.Invalid(field.NewPath("metadata", "name"), o.Name, msg))
	}
	dry, err := dryRun(o.Annotations)
	if err != nil {
		errs = append(errs, err)
	}
	selector, more := selectorFrom(spec.Child("selector"), o.Spec.GetSelector())
	errs = append(errs, more...)
	r := &ruleReader{namespace: o.Namespace}
	custom := false
	switch a := o.Spec.GetAction(); a {
	case securityv1beta1.AuthorizationPolicy_ALLOW:
		r.action = mesh.Allow
	case securityv1beta1.AuthorizationPolicy_DENY:
		r.action = mesh.Deny
	case securityv1beta1.AuthorizationPolicy_AUDIT:
		r.action = mesh.Audit
	case securityv1beta1.AuthorizationPolicy_CUSTOM:
		custom = true
	default:
		errs = append(errs, field.NotSupported(spec.Child("action"), a, []string{"ALLOW", "DENY", "AUDIT", "CUSTOM"}))
	}
	if !custom && o.Spec.GetProvider() != nil {
		errs = append(errs, field.Forbidden(spec.Child("provider"), "only action CUSTOM has a provider"))
	}
	rules := r.rules(spec.Child("rules"), o.Spec.GetRules())
	errs = append(errs, r.errs...)
	targets, more := targetsOf(spec, &o.Spec)
	errs = append(errs, more...)
	switch {
	case len(errs) > 0:
		return nil, errs, nil
	case targets != nil:
		return &authzPolicy{}, nil, field.ErrorList{field.Forbidden(targets, "not applied at L4: the policy is for the waypoint it names")}
	case custom:
		return &authzPolicy{}, nil, field.ErrorList{field.Forbidden(spec.Child("action"), "not applied at L4: only waypoints ask the provider of action CUSTOM")}
	}
	p := &mesh.Policy{
		Name:   mesh.Name{Namespace: o.Namespace, Name: o.Name},
		Scope:  scopeOf(selector, o.Namespace, root),
		Action: r.action, Rules: rules, DryRun: dry,
	}
	return &authzPolicy{policy: p, selector: selector}, nil, r.partial
}

func scopeOf(selector map[string]string, namespace, root string) mesh.Scope {
	switch {
	case len(selector) > 0:
		return mesh.ScopeWorkload
	case namespace == root:
		return mesh.ScopeMesh
	}
	return mesh.ScopeNamespace
}

func dryRun(annotations map[string]string) (bool, *field.Error) {
	v, ok := annotations[KeyDryRun]
	if !ok {
		return false, nil
	}
	dry, err := strconv.ParseBool(v)
	if err != nil {
		return false, field.Invalid(field.NewPath("metadata", "annotations").Key(KeyDryRun), v, "want true or false")
	}
	return dry, nil
}

// targetsOf is the path of what names a waypoint; nil when nothing does.
func targetsOf(spec *field.Path, s *securityv1beta1.AuthorizationPolicy) (targets *field.Path, errs field.ErrorList) {
	switch {
	case len(s.GetTargetRefs()) > 0:
		targets = spec.Child("targetRefs")
	case s.GetTargetRef() != nil: //nolint:staticcheck // older objects have it
		targets = spec.Child("targetRef")
	}
	if targets != nil && s.GetSelector() != nil {
		errs = append(errs, field.Forbidden(spec.Child("selector"), "a policy has either a selector or "+targets.String()))
	}
	return targets, errs
}

func (t *Translator) putAuthz(k Key, o *istiosecurity.AuthorizationPolicy) (errs, partial field.ErrorList) {
	ap, errs, partial := authzPolicyFrom(o, t.cfg.RootNamespace)
	if len(errs) > 0 {
		return errs, nil
	}
	t.setAuthz(k.meshName(), ap)
	return nil, partial
}

func (t *Translator) deleteAuthz(k Key) { t.setAuthz(k.meshName(), nil) }

// setAuthz replaces the policy of a name; nil removes it. Only the pods that the old or the new one selects
// are looked at again.
func (t *Translator) setAuthz(n mesh.Name, ap *authzPolicy) {
	old := t.authz[n]
	if old.selects() && (!ap.selects() || !reflect.DeepEqual(old.selector, ap.selector)) {
		t.touchSelected(n.Namespace, old.selector)
	}
	if ap.selects() && (!old.selects() || !reflect.DeepEqual(old.selector, ap.selector)) {
		t.touchSelected(n.Namespace, ap.selector)
	}
	t.dirtyAuthz.add(n)
	list := t.selecting[n.Namespace]
	i, found := slices.BinarySearchFunc(list, n, func(a *authzPolicy, n mesh.Name) int { return compareNames(a.policy.Name, n) })
	if found {
		list = slices.Delete(list, i, i+1)
	}
	if ap.selects() {
		list = slices.Insert(list, i, ap)
	}
	if t.selecting[n.Namespace] = list; len(list) == 0 {
		delete(t.selecting, n.Namespace)
	}
	if t.authz[n] = ap; ap == nil {
		delete(t.authz, n)
	}
}

func (a *authzPolicy) selects() bool { return a != nil && len(a.selector) > 0 }

// authzPolicies are the policies that select the pod, in the order of their names. Those of the root namespace
// select pods of every namespace.
func (t *Translator) authzPolicies(p *pod) (out []mesh.Name) {
	add := func(namespace string) {
		for _, a := range t.selecting[namespace] {
			if selected(a.selector, p.labels) {
				out = append(out, a.policy.Name)
			}
		}
	}
	add(t.cfg.RootNamespace)
	if p.name.Namespace != t.cfg.RootNamespace {
		add(p.name.Namespace)
	}
	return out
}
