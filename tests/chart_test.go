// SPDX-License-Identifier: Apache-2.0

package tests

import (
	"os"
	"regexp"
	"strconv"
	"testing"
	"time"

	"github.com/warren-mesh/warren/control/ca"
	"github.com/warren-mesh/warren/mesh/cni"
)

// TestChartKnowsTheLimits of the parts it gives durations to: it refuses what they would not start with, and nothing else.
func TestChartKnowsTheLimits(t *testing.T) {
	notes, err := os.ReadFile("../deploy/chart/warren/templates/NOTES.txt")
	if err != nil {
		t.Fatal(err)
	}
	limit := func(comparison string) time.Duration {
		m := regexp.MustCompile(regexp.QuoteMeta(comparison) + ` ([0-9.]+)\)`).FindSubmatch(notes)
		if m == nil {
			t.Fatalf("NOTES.txt has no %s", comparison)
		}
		ms, err := strconv.ParseFloat(string(m[1]), 64)
		if err != nil {
			t.Fatal(err)
		}
		return time.Duration(ms) * time.Millisecond
	}
	least, most := limit("(lt $ttl"), limit("(gt $ttl")
	for ttl, want := range map[time.Duration]bool{least - time.Millisecond: false, least: true, most: true, most + time.Millisecond: false} {
		if _, err := ca.Open(ca.Config{Dir: t.TempDir(), LeafTTL: ttl}); (err == nil) != want {
			t.Errorf("control.leafTTL %v: the chart takes it: %v; control says %v", ttl, want, err)
		}
	}
	if d := limit("(gt $deadline"); d != cni.MaxWait {
		t.Errorf("node.cniDeadline: at most %v, in the agent %v", d, cni.MaxWait)
	}
}
