// SPDX-License-Identifier: Apache-2.0

package broker

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// TestSysctlsComeBack changes the settings of a namespace and restores them, also from a state that a broker without
// memory finds.
func TestSysctlsComeBack(t *testing.T) {
	for _, tt := range []struct{ name, ports, captured, restored string }{
		{"nothing reserved", "", "61000-61063", ""},
		{"something reserved", "8080,9000-9010", "8080,9000-9010,61000-61063", "8080,9000-9010"},
		{"captured before", "8080,61000-61063", "8080,61000-61063", "8080"},
		{"captured before, nothing else", "61000-61063", "61000-61063", ""},
	} {
		t.Run(tt.name, func(t *testing.T) {
			proc := t.TempDir()
			must(t, os.MkdirAll(filepath.Join(proc, "sys/net/ipv4"), 0o755))
			must(t, writeSysctl(proc, reservedPorts, tt.ports))
			must(t, writeSysctl(proc, twReuse, "2"))
			read := func(name string) string {
				b, err := os.ReadFile(filepath.Join(proc, name))
				must(t, err)
				return strings.TrimSpace(string(b))
			}
			before := map[string]string{}
			for range 2 { // the second time changes nothing
				must(t, changeSysctls(proc, before))
				if got := read(reservedPorts); got != tt.captured {
					t.Errorf("reserved ports are %q, want %q", got, tt.captured)
				}
				if got := read(twReuse); got != "1" {
					t.Errorf("tcp_tw_reuse is %q, want 1", got)
				}
			}
			for name, v := range before {
				must(t, writeSysctl(proc, name, v))
			}
			if ports, reuse := read(reservedPorts), read(twReuse); ports != tt.restored || reuse != "2" {
				t.Errorf("restored %q and %q, want %q and 2", ports, reuse, tt.restored)
			}
		})
	}
}
