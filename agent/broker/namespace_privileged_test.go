// SPDX-License-Identifier: Apache-2.0

package broker

import (
	"fmt"
	"os"
	"sync"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/warren-mesh/warren/tests/testutil"
)

// TestNoThreadStaysInANamespace: every thread that went into one ends or comes home, and the main thread, which
// can't end, never goes.
func TestNoThreadStaysInANamespace(t *testing.T) {
	w := newWorld(t)
	inside := func() (threads int) {
		tasks, err := os.ReadDir("/proc/self/task")
		must(t, err)
		for _, task := range tasks {
			var st unix.Stat_t
			if unix.Stat(fmt.Sprintf("/proc/self/task/%s/ns/net", task.Name()), &st) == nil && st.Ino == w.host.inode {
				threads++
			}
		}
		return threads
	}
	var wg sync.WaitGroup
	for range 300 {
		wg.Go(func() {
			if err := w.host.do(func() error { return nil }); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	testutil.Eventually(t, 5e9, "threads stay", func() bool { return inside() == 0 })

	v := newVisitor()
	must(t, v.do(w.host, func() {
		if inside() != 1 {
			t.Error("the visitor is not where it should be")
		}
	}))
	v.close()
	testutil.Eventually(t, 5e9, "the visitor stays", func() bool { return inside() == 0 })
	if err := v.do(w.host, func() {}); err != errVisitorEnded {
		t.Errorf("an ended visitor: %v", err)
	}
}
