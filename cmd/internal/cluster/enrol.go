// SPDX-License-Identifier: Apache-2.0

package cluster

import (
	"context"
	"encoding/json"
	"fmt"
	"slices"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/warren-mesh/warren/mesh/kube"
)

// Enrol labels a namespace for the mesh, or takes it out: its own label goes, and where the namespace would be in the
// mesh by another word even then, it says "disabled". It tells what the label is now, "" for none.
func (c *Cluster) Enrol(ctx context.Context, namespace string, in bool) (label string, err error) {
	if in && slices.Contains([]string{"kube-system", c.system}, namespace) {
		return "", fmt.Errorf("namespace %s is never captured", namespace)
	}
	ns, err := get[metav1.PartialObjectMetadata](ctx, c, namespacesResource, "", namespace)
	if err != nil {
		return "", err
	}
	var value any
	switch {
	case in:
		value = "enabled"
	case ns.Annotations[kube.KeyMesh] == "enabled", ns.Labels[kube.KeyDataplaneMode] == "ambient", ns.Annotations[kube.KeyDataplaneMode] == "ambient":
		value = "disabled"
	}
	patch, err := json.Marshal(map[string]any{"metadata": map[string]any{"labels": map[string]any{kube.KeyMesh: value}}})
	if err != nil {
		return "", err
	}
	if _, err := c.objects.Resource(namespacesResource).Patch(ctx, namespace, types.MergePatchType, patch, metav1.PatchOptions{}); err != nil {
		return "", fmt.Errorf("label namespace %s: %w", namespace, err)
	}
	label, _ = value.(string)
	return label, nil
}
