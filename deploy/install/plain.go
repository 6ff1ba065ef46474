// SPDX-License-Identifier: Apache-2.0

package install

import (
	"context"
	"fmt"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
)

// clusterScoped are the kinds of the chart's objects that don't go with the namespace.
var clusterScoped = []schema.GroupVersionResource{
	{Group: "admissionregistration.k8s.io", Version: "v1", Resource: "validatingadmissionpolicybindings"},
	{Group: "admissionregistration.k8s.io", Version: "v1", Resource: "validatingadmissionpolicies"},
	{Group: "rbac.authorization.k8s.io", Version: "v1", Resource: "clusterrolebindings"},
	{Group: "rbac.authorization.k8s.io", Version: "v1", Resource: "clusterroles"},
}

// deletePlain deletes what the release did not know: of an installation by `kubectl apply` everything.
func deletePlain(ctx context.Context, c clients) error {
	for _, r := range clusterScoped {
		list, err := c.dynamic.Resource(r).List(ctx, metav1.ListOptions{LabelSelector: "app.kubernetes.io/part-of=warren"})
		if err != nil {
			return fmt.Errorf("list %s: %w", r.Resource, err)
		}
		for _, o := range list.Items {
			if err := c.dynamic.Resource(r).Delete(ctx, o.GetName(), metav1.DeleteOptions{}); err != nil && !apierrors.IsNotFound(err) {
				return fmt.Errorf("delete %s %s: %w", r.Resource, o.GetName(), err)
			}
		}
	}
	return nil
}
