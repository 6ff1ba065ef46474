// SPDX-License-Identifier: Apache-2.0

package demo_test

import (
	"testing"
	"time"

	"github.com/warren-mesh/warren/tests/page"
	"github.com/warren-mesh/warren/tests/testutil"
)

// TestPages is a reader who types what the pages of the documentation have to type for the demo, page by page.
func TestPages(t *testing.T) {
	testutil.Privileged(t)
	u := newUser(t)
	t.Cleanup(func() { u.stops(t) })
	if out, err := u.types("build/bin/warren-netns demo", "", time.Minute); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	for _, p := range page.At(page.Demo) {
		t.Run(p.File, func(t *testing.T) {
			p.Follow(t, page.Demo, func(_ *testing.T, script string) (string, error) { return u.types("sh", script, 20*time.Second) })
		})
	}
}
