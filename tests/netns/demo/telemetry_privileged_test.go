// SPDX-License-Identifier: Apache-2.0

package demo_test

import (
	"testing"
	"time"

	"github.com/warren-mesh/warren/tests/testutil"
)

// TestTracingPage is a user who types every command of docs/tracing.md into the demo.
func TestTracingPage(t *testing.T) {
	testutil.Privileged(t)
	u := newUser(t)
	t.Cleanup(func() { u.stops(t) })
	if out, err := u.types("build/bin/warren-netns demo", "", time.Minute); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	u.follows("../../../docs/tracing.md", []step{
		{part: "get warren-ztunnel-a", shows: `source_version="`},
		{part: "warrenctl top", shows: "POD "},
		{part: "DIR="},
		{part: "cat deploy", shows: "dropLabels"},
		{part: "cp deploy"},
		{part: "shop buy"},
		{part: "get warren-ztunnel-a", shows: `warren_spans_export_failures_total{exporter="zipkin"}`},
		{part: "get warren-ztunnel-a", shows: "warren_pod_connections_total"},
		{part: "rm $DIR"},
	})
}
