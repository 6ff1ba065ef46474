// SPDX-License-Identifier: Apache-2.0

package install

import (
	"context"
	"strings"
	"testing"
)

// TestDurationsThatPartsRefuse are refused before anything is installed.
func TestDurationsThatPartsRefuse(t *testing.T) {
	for want, values := range map[string]map[string]any{
		"control.leafTTL: 59.9s is not between 1m and 2190h":       {"control": map[string]any{"leafTTL": "59.9s"}},
		"control.leafTTL: 2190h1ms is not between 1m and 2190h":    {"control": map[string]any{"leafTTL": "2190h1ms"}},
		"node.cniDeadline: 0s is not above 0 and at most 1m":       {"node": map[string]any{"cniDeadline": "0s"}},
		"node.cniDeadline: 1m0.001s is not above 0 and at most 1m": {"node": map[string]any{"cniDeadline": "1m0.001s"}},
	} {
		values["image"] = PlaceholderImage
		if _, err := Render(context.Background(), "", values); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("got %v, want something about %q", err, want)
		}
	}
}

// TestDurationsThatPartsTake are at the edges.
func TestDurationsThatPartsTake(t *testing.T) {
	for flag, values := range map[string]map[string]any{
		"--leaf-ttl=1m":               {"control": map[string]any{"leafTTL": "1m"}},
		"--leaf-ttl=60000ms":          {"control": map[string]any{"leafTTL": "60000ms"}},
		"--leaf-ttl=0.5m30s":          {"control": map[string]any{"leafTTL": "0.5m30s"}},
		"--leaf-ttl=2189h59m59s999ms": {"control": map[string]any{"leafTTL": "2189h59m59s999ms"}},
		"--leaf-ttl=2190h":            {"control": map[string]any{"leafTTL": "2190h"}},
		"--cni-deadline=1ms":          {"node": map[string]any{"cniDeadline": "1ms"}},
		"--cni-deadline=1m":           {"node": map[string]any{"cniDeadline": "1m"}},
		"--cni-deadline=0m59.5s":      {"node": map[string]any{"cniDeadline": "0m59.5s"}},
	} {
		if stream := render(t, values)["02-warren.yaml"]; !strings.Contains(string(stream), flag+"\n") {
			t.Errorf("no part is given %s", flag)
		}
	}
}
