// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"fmt"
	"strings"

	"sigs.k8s.io/yaml"
)

// own names this namespace in every document that names none and whose kind is not the cluster's.
func (n *Namespace) own(manifest string) string {
	n.t.Helper()
	var docs []string
	for doc := range strings.SplitSeq(manifest, "\n---") {
		var o map[string]any
		if err := yaml.Unmarshal([]byte(doc), &o); err != nil {
			n.t.Fatalf("manifest: %v\n%s", err, doc)
		}
		meta, ok := o["metadata"].(map[string]any)
		if !ok {
			continue
		}
		if meta["namespace"] == nil && !clusterKinds[fmt.Sprint(o["kind"])] {
			meta["namespace"] = n.Name
		}
		b, err := yaml.Marshal(o)
		if err != nil {
			n.t.Fatal(err)
		}
		docs = append(docs, string(b))
	}
	return strings.Join(docs, "---\n")
}

var clusterKinds = map[string]bool{"Namespace": true, "ClusterRole": true, "ClusterRoleBinding": true, "MeshConfig": true,
	"GatewayClass": true, "ValidatingWebhookConfiguration": true, "ValidatingAdmissionPolicy": true}
