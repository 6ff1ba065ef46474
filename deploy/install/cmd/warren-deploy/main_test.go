// SPDX-License-Identifier: Apache-2.0

package main

import (
	"flag"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"k8s.io/client-go/tools/clientcmd"
)

// write makes a file and returns its path.
func write(t *testing.T, name, content string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), name)
	if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

func config(context, server string) string {
	out := "apiVersion: v1\nkind: Config\ncurrent-context: " + context + "\ncontexts: [{name: c, context: {cluster: c, user: u}}]\nusers: [{name: u, user: {token: t}}]\n"
	if server != "" {
		out += "clusters: [{name: c, cluster: {server: \"" + server + "\"}}]\n"
	}
	return out
}

// TestKubeconfig is what kubectl does with the same files.
func TestKubeconfig(t *testing.T) {
	home, nowhere := write(t, "config", config("c", "https://home")), filepath.Join(t.TempDir(), "none")
	whole, half := write(t, "whole", config("c", "https://whole")), write(t, "half", config("c", ""))
	list := strings.Join([]string{nowhere, half, whole}, string(filepath.ListSeparator))
	for _, tt := range []struct{ name, variable, home, want, err string }{
		{name: "a file", variable: whole, home: home, want: "https://whole"},
		{name: "a list, the cluster in the last", variable: list, home: home, want: "https://whole"},
		{name: "no variable", home: home, want: "https://home"},
		{name: "nothing", home: nowhere, err: nowhere + " names none (set KUBECONFIG"},
		{name: "no YAML", variable: write(t, "broken", "{"), home: home, err: "read KUBECONFIG"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Setenv("KUBECONFIG", tt.variable)
			t.Setenv("KUBERNETES_SERVICE_HOST", "") // no pod
			before := clientcmd.RecommendedHomeFile
			clientcmd.RecommendedHomeFile = tt.home
			t.Cleanup(func() { clientcmd.RecommendedHomeFile = before })
			cfg, err := kubeconfig()
			switch {
			case tt.err != "":
				if err == nil || !strings.Contains(err.Error(), tt.err) {
					t.Errorf("got %v, want something about %q", err, tt.err)
				}
			case err != nil:
				t.Error(err)
			case cfg.Host != tt.want || cfg.BearerToken != "t":
				t.Errorf("got %s with token %q, want %s", cfg.Host, cfg.BearerToken, tt.want)
			}
		})
	}
}

// TestValueFiles: a later file adds to an earlier one, and no file is not the same as an empty one.
func TestValueFiles(t *testing.T) {
	one := write(t, "one.yaml", "trustDomain: corp.example\nnode: {cniDeadline: 20s, bpffs: /bpf}\n")
	two := write(t, "two.yaml", "logLevel: debug\nnode: {cniDeadline: 30s}\n")
	for _, tt := range []struct {
		name  string
		files []string
		want  map[string]any
	}{
		{"none", nil, nil},
		{"an empty one", []string{write(t, "empty.yaml", "# nothing\n")}, map[string]any{}},
		{"two", []string{one, two}, map[string]any{
			"trustDomain": "corp.example", "logLevel": "debug", "node": map[string]any{"cniDeadline": "30s", "bpffs": "/bpf"},
		}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			fs := flag.NewFlagSet("", flag.ContinueOnError)
			fs.SetOutput(io.Discard)
			files := valuesFlag(fs)
			var args []string
			for _, f := range tt.files {
				args = append(args, "--values", f)
			}
			if err := fs.Parse(args); err != nil {
				t.Fatal(err)
			}
			got, err := files.read()
			if diff := cmp.Diff(tt.want, got); err != nil || diff != "" {
				t.Errorf("error %v, -want +got:\n%s", err, diff)
			}
		})
	}
}
