// SPDX-License-Identifier: Apache-2.0

package demo

import (
	"bytes"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// TestInstall puts another apt-get in the place of Debian's.
func TestInstall(t *testing.T) {
	tests := []struct {
		name, script string // "": there is none
		wantErr      string
		wantCalls    string
	}{
		{name: "no Debian", wantErr: "no nft (install the package that has it, often called nftables)"},
		{name: "installed", script: `echo "$@" >> "$0.calls"`, wantCalls: "update -qq\ninstall -qq -y --no-install-recommends nftables\n"},
		{name: "no network", script: "echo could not resolve; exit 100", wantErr: "apt-get update -qq: exit status 100\ncould not resolve"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			dir := t.TempDir()
			t.Setenv("PATH", dir)
			apt := filepath.Join(dir, "apt-get")
			if tt.script != "" {
				if err := os.WriteFile(apt, []byte("#!/bin/sh\n"+tt.script+"\n"), 0o755); err != nil {
					t.Fatal(err)
				}
			}
			var out bytes.Buffer
			err := install(&out, "nft", "nftables")
			if (err == nil) != (tt.wantErr == "") || err != nil && strings.TrimSpace(err.Error()) != tt.wantErr {
				t.Errorf("got %v, want %q", err, tt.wantErr)
			}
			calls, _ := os.ReadFile(apt + ".calls")
			if string(calls) != tt.wantCalls {
				t.Errorf("called %q, want %q", calls, tt.wantCalls)
			}
			if tt.script != "" && !strings.Contains(out.String(), "installing the package nftables (about half a minute)") {
				t.Errorf("said %q", out.String())
			}
		})
	}
}
