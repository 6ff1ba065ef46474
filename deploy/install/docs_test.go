// SPDX-License-Identifier: Apache-2.0

package install

import (
	"os"
	"strings"
	"testing"

	"sigs.k8s.io/yaml"
)

// TestEveryValueIsOnThePage keeps the table of docs/operations/install.md to the chart.
func TestEveryValueIsOnThePage(t *testing.T) {
	page, err := os.ReadFile("../../docs/operations/install.md")
	if err != nil {
		t.Fatal(err)
	}
	b, err := os.ReadFile("../chart/warren/values.yaml")
	if err != nil {
		t.Fatal(err)
	}
	values := map[string]any{}
	if err := yaml.Unmarshal(b, &values); err != nil {
		t.Fatal(err)
	}
	for name, v := range values {
		names := []string{name}
		if group, ok := v.(map[string]any); ok {
			names = nil
			for key := range group {
				names = append(names, name+"."+key)
			}
		}
		for _, n := range names {
			if !strings.Contains(string(page), "`"+n+"`") {
				t.Errorf("docs/operations/install.md does not tell of the value %s", n)
			}
		}
	}
}
