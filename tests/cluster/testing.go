// SPDX-License-Identifier: Apache-2.0

package cluster

import (
	"context"
	"os"
	"testing"
)

// KeepVariable names the environment variable that, when not empty, leaves a test's cluster running to be looked at, and
// lets the next test take it over.
const KeepVariable = "WARREN_TESTCLUSTER_KEEP"

// Privileged skips a test that needs root when it hasn't got it; under CI that is a failure.
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

// ForTest starts a cluster for one test, which ends with it. Stages go to the test's standard error as they happen.
func ForTest(tb testing.TB, o Options) *Cluster {
	tb.Helper()
	Privileged(tb)
	keep := os.Getenv(KeepVariable) != ""
	o.Reuse = o.Reuse || keep
	if o.Output == nil {
		o.Output = os.Stderr
	}
	c, err := Up(tb.Context(), o)
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() {
		if tb.Failed() {
			c.dump(context.Background(), tb)
		}
		if keep {
			return
		}
		if err := c.Down(); err != nil {
			tb.Error(err)
		}
	})
	return c
}

// dump logs what helps to understand a failed test.
func (c *Cluster) dump(ctx context.Context, tb testing.TB) {
	for _, args := range [][]string{{"get", "pods", "-A", "-o", "wide"}, {"get", "events", "-A", "--sort-by=.lastTimestamp"}} {
		out, _ := c.Kubectl(ctx, args...).CombinedOutput()
		tb.Logf("kubectl %v:\n%s", args, out)
	}
}
