// SPDX-License-Identifier: Apache-2.0

package demo

import (
	"fmt"
	"strings"

	"sigs.k8s.io/yaml"

	"github.com/warren-mesh/warren/deploy/samples"
)

// object is any of the sample's.
type object = map[string]any

// shopObjects are the sample's for a cluster with these nodes, which need not be two, and this image.
func shopObjects(nodes []string, image string) (string, error) {
	at := map[string]string{"a": nodes[0], "b": nodes[len(nodes)-1]}
	var out, accounts []string
	for doc := range strings.SplitSeq(samples.Shop, "\n---\n") {
		var o object
		if err := yaml.Unmarshal([]byte(doc), &o); err != nil {
			return "", fmt.Errorf("read the sample: %w", err)
		}
		if o["kind"] == "Pod" {
			meta, spec := o["metadata"].(object), o["spec"].(object)
			spec["nodeName"] = at[spec["nodeName"].(string)]
			for _, c := range spec["containers"].([]any) {
				place(c.(object), image)
			}
			if meta["namespace"] == "shop" {
				accounts = append(accounts, fmt.Sprintf("apiVersion: v1\nkind: ServiceAccount\nmetadata: {name: %s, namespace: shop}\n", meta["name"]))
				spec["serviceAccountName"] = meta["name"]
			}
		}
		b, err := yaml.Marshal(o)
		if err != nil {
			return "", fmt.Errorf("write the sample: %w", err)
		}
		out = append(out, string(b))
	}
	return strings.Join(append(append(out[:1:1], accounts...), out[1:]...), "---\n"), nil // the namespace first
}

// place gives a container its image, and something to do where it has nothing.
func place(container object, image string) {
	container["image"], container["imagePullPolicy"] = image, "IfNotPresent"
	if container["command"] == nil {
		container["command"] = []any{"shop", "idle"}
	}
}

// customer buys once a second, with the shopper's identity.
func customer(image, card, url string) string {
	return fmt.Sprintf(`apiVersion: v1
kind: Pod
metadata: {name: customer, namespace: shop, labels: {app: shopper}}
spec:
  serviceAccountName: shopper
  containers:
  - name: customer
    image: %s
    imagePullPolicy: IfNotPresent
    command: [shop, buy, --card, %q, --every, 1s, %q]
`, image, card, url)
}
