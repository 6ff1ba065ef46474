// SPDX-License-Identifier: Apache-2.0

package apiserver

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func TestOpenSaysWhatIsMissing(t *testing.T) {
	t.Setenv("KUBERNETES_SERVICE_HOST", "")
	dir := t.TempDir()
	bad := filepath.Join(dir, "bad")
	if err := os.WriteFile(bad, []byte("x: ["), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, tt := range []struct{ kubeconfig, want string }{
		{"", "--kubeconfig"}, {filepath.Join(dir, "none"), "none"}, {bad, "--kubeconfig " + bad},
	} {
		if _, err := Open(Config{Kubeconfig: tt.kubeconfig}); err == nil || !strings.Contains(err.Error(), tt.want) {
			t.Errorf("%q: %v, want %q in it", tt.kubeconfig, err, tt.want)
		}
	}
}

func TestOpenDoesNotConnect(t *testing.T) {
	path := filepath.Join(t.TempDir(), "kubeconfig")
	if err := os.WriteFile(path, []byte(`{apiVersion: v1, kind: Config, current-context: x,
clusters: [{name: c, cluster: {server: "https://127.0.0.1:1"}}], contexts: [{name: x, context: {cluster: c}}]}`), 0o600); err != nil {
		t.Fatal(err)
	}
	c, err := Open(Config{Kubeconfig: path, UserAgent: "test"})
	if err != nil {
		t.Fatal(err)
	}
	if rc, _ := c.Rest(); rc.UserAgent != "test" || rc.QPS != perSecond {
		t.Errorf("%+v", rc)
	}
}
