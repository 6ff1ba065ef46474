// SPDX-License-Identifier: Apache-2.0

package cluster

import (
	"context"
	"fmt"
	"slices"
	"strings"

	admissionv1 "k8s.io/api/admissionregistration/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// admissionPolicy is the name of the ValidatingAdmissionPolicy that keeps each agent to its own node's pods and its own
// annotation, and of its binding. RBAC alone lets it patch all pods.
const admissionPolicy = NodePart

// bringsBack is the remedy.
const bringsBack = "until then a node's token may change every pod in the cluster (make install, or helm upgrade, puts it right)"

// admission looks at the policy and its binding.
func (c *Cluster) admission(ctx context.Context) []Finding {
	p, err := get[admissionv1.ValidatingAdmissionPolicy](ctx, c, admissionv1.SchemeGroupVersion.WithResource("validatingadmissionpolicies"), "", admissionPolicy)
	policy := admissionFinding("ValidatingAdmissionPolicy "+admissionPolicy, err, func() string { return c.policyFault(&p) })
	b, err := get[admissionv1.ValidatingAdmissionPolicyBinding](ctx, c, admissionv1.SchemeGroupVersion.WithResource("validatingadmissionpolicybindings"), "", admissionPolicy)
	binding := admissionFinding("ValidatingAdmissionPolicyBinding "+admissionPolicy, err, func() string { return bindingFault(&b) })
	return []Finding{policy, binding}
}

func admissionFinding(check string, err error, fault func() string) Finding {
	switch {
	case apierrors.IsNotFound(err):
		return Finding{check, Bad, "it is not there: " + bringsBack}
	case err != nil:
		return failed(check, err)
	}
	if f := fault(); f != "" {
		return Finding{check, Bad, f + ": " + bringsBack}
	}
	return Finding{Check: check, State: Good}
}

// policyFault is why the policy does not hold; "" when it does.
func (c *Cluster) policyFault(p *admissionv1.ValidatingAdmissionPolicy) string {
	agent := fmt.Sprintf("system:serviceaccount:%s:%s", c.system, NodePart)
	switch {
	case p.Spec.FailurePolicy != nil && *p.Spec.FailurePolicy != admissionv1.Fail:
		return fmt.Sprintf("failurePolicy is %s, not Fail", *p.Spec.FailurePolicy)
	case len(p.Spec.Validations) == 0:
		return "it validates nothing"
	case !takesPods(p.Spec.MatchConstraints):
		return "matchConstraints leave pods out"
	case len(p.Spec.MatchConditions) > 0 && !slices.ContainsFunc(p.Spec.MatchConditions, func(m admissionv1.MatchCondition) bool { return strings.Contains(m.Expression, `"`+agent+`"`) }):
		return "it is not about " + agent
	}
	return ""
}

// bindingFault likewise.
func bindingFault(b *admissionv1.ValidatingAdmissionPolicyBinding) string {
	switch {
	case b.Spec.PolicyName != admissionPolicy:
		return fmt.Sprintf("it binds %s, not %s", b.Spec.PolicyName, admissionPolicy)
	case !slices.Contains(b.Spec.ValidationActions, admissionv1.Deny):
		return fmt.Sprintf("validationActions are %v, without Deny", b.Spec.ValidationActions)
	case narrows(b.Spec.MatchResources):
		return "matchResources leave pods out"
	}
	return ""
}

// takesPods reports whether changes of every pod are looked at.
func takesPods(m *admissionv1.MatchResources) bool {
	return m != nil && !selective(m) && slices.ContainsFunc(m.ResourceRules, func(r admissionv1.NamedRuleWithOperations) bool {
		has := func(all []string, one string) bool { return slices.Contains(all, one) || slices.Contains(all, "*") }
		changes := slices.Contains(r.Operations, admissionv1.Update) || slices.Contains(r.Operations, admissionv1.OperationAll)
		return changes && len(r.ResourceNames) == 0 && has(r.APIGroups, "") && has(r.APIVersions, "v1") && has(r.Resources, "pods")
	})
}

func narrows(m *admissionv1.MatchResources) bool {
	return m != nil && (selective(m) || len(m.ResourceRules) > 0)
}

// selective reports whether some namespaces or objects are left out.
func selective(m *admissionv1.MatchResources) bool {
	selects := func(s *metav1.LabelSelector) bool { return s != nil && len(s.MatchLabels)+len(s.MatchExpressions) > 0 }
	return selects(m.NamespaceSelector) || selects(m.ObjectSelector) || len(m.ExcludeResourceRules) > 0
}
