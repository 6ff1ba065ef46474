// SPDX-License-Identifier: Apache-2.0

package cluster

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// TestConnect reads a list as kubectl reads KUBECONFIG.
func TestConnect(t *testing.T) {
	dir := t.TempDir()
	write := func(name, content string) string {
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, []byte("apiVersion: v1\nkind: Config\n"+content), 0o600); err != nil {
			t.Fatal(err)
		}
		return path
	}
	contexts := write("contexts", "current-context: c\ncontexts: [{name: c, context: {cluster: c}}]\n")
	clusters := write("clusters", "clusters: [{name: c, cluster: {server: \"https://there\"}}]\n")
	c, err := Connect(contexts + string(filepath.ListSeparator) + clusters)
	if err != nil {
		t.Fatal(err)
	}
	if c.Config().Host != "https://there" {
		t.Errorf("host %s", c.Config().Host)
	}
	none := filepath.Join(dir, "none")
	if _, err := Connect(none); err == nil || !strings.Contains(err.Error(), none) {
		t.Errorf("of a file that is missing: %v", err)
	}
}
