// SPDX-License-Identifier: Apache-2.0

package agent

import (
	"os"
	"path/filepath"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/warren-mesh/warren/mesh/broker"
)

// While one agent replaces another both keep files of the same pods.
func TestTwoAgentsKeepFilesOfAPod(t *testing.T) {
	files := podFiles[held, *held]{dir: filepath.Join(t.TempDir(), heldDir)}
	var wg sync.WaitGroup
	for range 2 {
		wg.Go(func() {
			for range 2000 {
				if err := files.save("u1", &held{Capture: broker.Capture{UID: "u1"}}); err != nil {
					t.Error(err)
					return
				}
			}
		})
	}
	wg.Wait()
	if got, err := files.load(); err != nil || len(got) != 1 {
		t.Errorf("%v, %v", got, err)
	}
	if left, _ := os.ReadDir(files.dir); len(left) != 1 {
		t.Errorf("left: %v", left)
	}
}

func TestFilesOnTheirWay(t *testing.T) {
	files := podFiles[held, *held]{dir: t.TempDir()}
	put := func(name string, age time.Duration) {
		path := filepath.Join(files.dir, name)
		at := time.Now().Add(-age)
		if err := os.WriteFile(path, nil, 0o600); err != nil {
			t.Fatal(err)
		}
		if err := os.Chtimes(path, at, at); err != nil {
			t.Fatal(err)
		}
	}
	put(".u1-1", 2*onItsWay)
	put(".u1-2", 0)
	put("another's", 2*onItsWay)
	if _, err := files.load(); err != nil {
		t.Fatal(err)
	}
	var left []string
	entries, err := os.ReadDir(files.dir)
	for _, e := range entries {
		left = append(left, e.Name())
	}
	if want := []string{".u1-2", "another's"}; err != nil || !slices.Equal(left, want) {
		t.Errorf("left %v, %v, want %v", left, err, want)
	}
}
