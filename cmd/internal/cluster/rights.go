// SPDX-License-Identifier: Apache-2.0

package cluster

import (
	"context"
	"fmt"
	"strings"

	authorizationv1 "k8s.io/api/authorization/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
)

// right is what a service account of Warren's has to be allowed.
type right struct{ account, verb, group, resource string }

func rights() (out []right) {
	for _, account := range []string{NodePart, ControlPart} {
		for _, r := range []struct{ group, resource string }{
			{"", "namespaces"}, {"", "nodes"}, {"", "pods"}, {"", "services"}, {"networking.k8s.io", "servicecidrs"}, {"discovery.k8s.io", "endpointslices"},
			{"security.istio.io", "authorizationpolicies"}, {"security.istio.io", "peerauthentications"}, {"warren.dev", "meshconfigs"},
		} {
			out = append(out, right{account, "list", r.group, r.resource}, right{account, "watch", r.group, r.resource})
		}
	}
	return append(out, right{NodePart, "patch", "", "pods"}, right{NodePart, "create", "", "events"},
		right{ControlPart, "create", "authentication.k8s.io", "tokenreviews"}, right{ControlPart, "create", "", "configmaps"})
}

// rights asks the server what Warren's service accounts may.
func (c *Cluster) rights(ctx context.Context) []Finding {
	const check = "RBAC of Warren's service accounts"
	var missing []string
	for _, r := range rights() {
		review := &authorizationv1.SubjectAccessReview{Spec: authorizationv1.SubjectAccessReviewSpec{
			User:               "system:serviceaccount:" + c.system + ":" + r.account,
			Groups:             []string{"system:serviceaccounts", "system:serviceaccounts:" + c.system, "system:authenticated"},
			ResourceAttributes: &authorizationv1.ResourceAttributes{Verb: r.verb, Group: r.group, Resource: r.resource},
		}}
		review.SetGroupVersionKind(authorizationv1.SchemeGroupVersion.WithKind("SubjectAccessReview"))
		o, err := runtime.DefaultUnstructuredConverter.ToUnstructured(review)
		if err != nil {
			return []Finding{failed(check, err)}
		}
		answer, err := c.objects.Resource(authorizationv1.SchemeGroupVersion.WithResource("subjectaccessreviews")).Create(ctx, &unstructured.Unstructured{Object: o}, metav1.CreateOptions{})
		if err != nil {
			return []Finding{failed(check, err)}
		}
		if allowed, _, _ := unstructured.NestedBool(answer.Object, "status", "allowed"); !allowed {
			missing = append(missing, fmt.Sprintf("%s may not %s %s", r.account, r.verb, schema.GroupResource{Group: r.group, Resource: r.resource}))
		}
	}
	if len(missing) > 0 {
		return []Finding{{check, Bad, strings.Join(missing, "; ")}}
	}
	return []Finding{{Check: check, State: Good}}
}
