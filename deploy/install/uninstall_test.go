// SPDX-License-Identifier: Apache-2.0

package install

import (
	"strings"
	"testing"
)

func TestVerdict(t *testing.T) {
	if v := verdict(nil); v != "nothing of Warren is left" {
		t.Errorf("of a clean cluster: %q", v)
	}
	v := verdict([]string{"n1", "n2"})
	if strings.Contains(v, "nothing of Warren is left") || !strings.Contains(v, "n1, n2") {
		t.Errorf("of one with nodes that nobody looked at: %q", v)
	}
}
