// SPDX-License-Identifier: Apache-2.0

package broker

import (
	"context"
	"os"
	"path/filepath"
	"testing"
	"time"
)

// TestRunDirIsWatched makes files and wants a word of each, without polling; and a missing directory is an error,
// after which the broker polls.
func TestRunDirIsWatched(t *testing.T) {
	dir := t.TempDir()
	b := &Broker{cfg: Config{RunDir: dir}, appeared: make(chan struct{}, 1)}
	ctx, cancel := context.WithCancel(t.Context())
	if err := b.watchRunDir(ctx); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"ztunnel-1.sock", "ztunnel-2.sock"} {
		if err := os.WriteFile(filepath.Join(dir, name), nil, 0o600); err != nil {
			t.Fatal(err)
		}
		select {
		case <-b.appeared:
		case <-time.After(10 * time.Second):
			t.Fatalf("no word of %s", name)
		}
	}
	cancel()
	b.wg.Wait() // the watcher ends with ctx

	b.cfg.RunDir = filepath.Join(dir, "missing")
	if err := b.watchRunDir(t.Context()); err == nil {
		t.Error("a missing directory is watched")
	}
}
