// SPDX-License-Identifier: Apache-2.0

// Package testutil holds what tests of several packages share.
package testutil

import (
	"os"
	"testing"
	"time"
)

// Privileged skips a test that needs root when it hasn't got it. Under CI (CI=true or WARREN_REQUIRE_ROOT=1)
// the skip is a failure, so that nothing is left untested by accident.
func Privileged(tb testing.TB) {
	tb.Helper()
	if os.Geteuid() == 0 {
		return
	}
	if os.Getenv("CI") == "true" || os.Getenv("WARREN_REQUIRE_ROOT") == "1" {
		tb.Fatal("this test needs root, and under CI it must run")
	}
	tb.Skip("needs root: run `go test -exec sudo` on this package")
}

// Eventually polls done every 5 ms until it returns true, and fails the test after the deadline.
func Eventually(tb testing.TB, deadline time.Duration, what string, done func() bool) {
	tb.Helper()
	end := time.Now().Add(deadline)
	for !done() {
		if time.Now().After(end) {
			tb.Fatalf("after %v: %s", deadline, what)
		}
		time.Sleep(5 * time.Millisecond)
	}
}
