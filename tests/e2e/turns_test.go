// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"slices"
	"testing"
	"testing/synctest"
)

// TestLongTestsBeginFirst lets short tests ask first.
func TestLongTestsBeginFirst(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		q := newTurns(2)
		var began []string
		ask := func(name string, long bool) {
			q.begin(long)
			q.mu.Lock()
			began = append(began, name)
			q.mu.Unlock()
		}
		want := func(names ...string) {
			t.Helper()
			synctest.Wait()
			slices.Sort(began)
			if !slices.Equal(began, names) {
				t.Fatalf("began: %v, want %v", began, names)
			}
			began = nil
		}
		for _, long := range []bool{false, true, false, true, true} {
			q.register(long)
		}
		go ask("short 1", false)
		go ask("short 2", false)
		want()
		go ask("long 1", true)
		go ask("long 2", true)
		want("long 1", "long 2")
		q.end()
		want() // a third long one is registered
		go ask("long 3", true)
		want("long 3")
		q.end()
		q.end()
		want("short 1", "short 2")
	})
}
