// SPDX-License-Identifier: Apache-2.0

package main

import (
	"fmt"
	"strings"
)

// policies are n AuthorizationPolicies that all select the server, as YAML: half refuse somebody, the others allow somebody,
// by principal or by address. Nobody of them is the client, but for the last.
func policies(n int) string {
	var out strings.Builder
	for i := range n {
		who := fmt.Sprintf("principals: [cluster.local/ns/other/sa/caller-%d]", i)
		if i%4 >= 2 {
			who = fmt.Sprintf("ipBlocks: [198.18.%d.%d]", i>>8&0xff, i&0xff)
		}
		action := "DENY"
		if i%2 == 1 {
			action = "ALLOW"
		}
		if i == n-1 {
			who, action = "principals: [cluster.local/ns/inside/sa/client]", "ALLOW"
		}
		fmt.Fprintf(&out, `---
apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: {name: policy-%05d, namespace: inside}
spec: {selector: {matchLabels: {app: server}}, action: %s, rules: [{from: [{source: {%s}}], to: [{operation: {ports: ["%d"]}}]}]}
`, i, action, who, serverPort)
	}
	return out.String()
}
