// SPDX-License-Identifier: Apache-2.0

package main

import (
	"strings"
	"testing"

	"istio.io/client-go/pkg/apis/security/v1"
	"sigs.k8s.io/yaml"
)

// TestPolicies wants all of them to select the server, with names of their own, and only the last to let the client in.
func TestPolicies(t *testing.T) {
	const n = 10
	seen := map[string]bool{}
	for i, doc := range strings.Split(policies(n), "---\n")[1:] {
		var p v1.AuthorizationPolicy
		if err := yaml.UnmarshalStrict([]byte(doc), &p); err != nil {
			t.Fatal(err)
		}
		seen[p.Name] = true
		if p.Namespace != inside || p.Spec.GetSelector().GetMatchLabels()["app"] != "server" || len(p.Spec.GetRules()) != 1 {
			t.Errorf("%s:\n%s", p.Name, doc)
		}
		if last := i == n-1; strings.Contains(doc, "/sa/client") != last {
			t.Errorf("%s names the client, or the last one does not:\n%s", p.Name, doc)
		}
	}
	if len(seen) != n {
		t.Errorf("%d policies, want %d", len(seen), n)
	}
}
