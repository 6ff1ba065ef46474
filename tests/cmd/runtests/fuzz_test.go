// SPDX-License-Identifier: Apache-2.0

package main

import "testing"

func TestEndedLate(t *testing.T) {
	const head = "=== RUN   FuzzX\nfuzz: elapsed: 2s, execs: 44750 (21640/sec)\n--- FAIL: FuzzX (2.08s)\n"
	for _, tt := range []struct {
		name, output string
		want         bool
	}{
		{"the end of its time", head + "    context deadline exceeded\n", true},
		{"an input that fails", head + "    --- FAIL: FuzzX (0.00s)\n        x_test.go:1: wrong\n    \n    Failing input written to testdata/fuzz/FuzzX/1\n", false},
		{"an input that fails with those words", head + "    context deadline exceeded\n    Failing input written to testdata/fuzz/FuzzX/1\n", false},
		{"a worker that died", head + "    fuzzing process hung or terminated unexpectedly: exit status 2\n", false},
	} {
		if got := endedLate(tt.output); got != tt.want {
			t.Errorf("%s: %v, want %v", tt.name, got, tt.want)
		}
	}
}
