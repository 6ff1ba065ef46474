// SPDX-License-Identifier: Apache-2.0

package demo_test

import (
	"testing"
	"time"

	"github.com/warren-mesh/warren/tests/testutil"
)

// TestExplainPage is a user who types every command of docs/explain.md into the demo.
func TestExplainPage(t *testing.T) {
	testutil.Privileged(t)
	u := newUser(t)
	t.Cleanup(func() { u.stops(t) })
	if out, err := u.types("build/bin/warren-netns demo", "", time.Minute); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	u.follows("../../../docs/explain.md", []step{
		{part: "DIR="}, {part: "cp deploy"},
		{part: "get shop/web", shows: "connection reset by peer", fails: true},
		{part: "explain shop/web", shows: "rules[0] wants another service account: {serviceAccounts=shop/cart}"},
		{part: "explain default/legacy", shows: "refused, STRICT_MTLS"},
		{part: "get warren-node-a", shows: "shop/web on a -> shop/inventory:80: refused, POLICY_NO_ALLOW"},
		{part: "warrenctl status", shows: "3 of 3 enrolled pods captured"},
		{part: "warrenctl workloads", shows: "NAMESPACE   POD NAME"},
		{part: "rm $DIR"},
	})
}
