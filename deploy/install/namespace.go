// SPDX-License-Identifier: Apache-2.0

package install

import (
	"context"
	"fmt"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	corev1apply "k8s.io/client-go/applyconfigurations/core/v1"
	"k8s.io/client-go/kubernetes"
	"sigs.k8s.io/yaml"
)

// namespaceLabels allow in Warren's namespace what Pod Security Admission may forbid elsewhere: the broker's capabilities
// and hostPID, and directories of the host in the node's two pods.
var namespaceLabels = map[string]string{
	"pod-security.kubernetes.io/enforce": "privileged",
	"pod-security.kubernetes.io/audit":   "privileged",
	"pod-security.kubernetes.io/warn":    "privileged",
}

func applyNamespace(ctx context.Context, client kubernetes.Interface) error {
	ns := corev1apply.Namespace(Namespace).WithLabels(namespaceLabels)
	if _, err := client.CoreV1().Namespaces().Apply(ctx, ns, metav1.ApplyOptions{FieldManager: manager, Force: true}); err != nil {
		return fmt.Errorf("apply namespace %s: %w", Namespace, err)
	}
	return nil
}

// namespaceManifest is the same as YAML.
func namespaceManifest() ([]byte, error) {
	return yaml.Marshal(map[string]any{
		"apiVersion": corev1.SchemeGroupVersion.String(), "kind": "Namespace",
		"metadata": map[string]any{"name": Namespace, "labels": namespaceLabels},
	})
}
