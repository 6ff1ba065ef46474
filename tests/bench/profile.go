// SPDX-License-Identifier: Apache-2.0

package main

import (
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"time"

	"github.com/warren-mesh/warren/tests/netns"
)

// profiles are CPU profiles taken while a load runs: of both ztunnels, by their debug endpoints. Figures measured
// meanwhile are a few per cent worse.
type profiles struct {
	dir   string
	nodes []*netns.Node
}

// wanted says whether profiles were asked for.
func (p profiles) wanted() bool { return p.dir != "" }

// start profiles for the duration, whole seconds up to four, and returns what waits for the files.
func (p profiles) start(scenario string, duration time.Duration) (wait func() error) {
	what := fmt.Sprintf("profile?seconds=%d", min(max(int(duration/time.Second), 1), 4))
	done := make(chan error, len(p.nodes))
	for _, n := range p.nodes {
		go func() {
			body, status, err := n.System.Ztunnel.Pod.Get("http://localhost:15000/debug/pprof/" + what)
			if err == nil && status != http.StatusOK {
				err = fmt.Errorf("profile of ztunnel on node %s: status %d: %s", n.Name, status, body)
			}
			if err == nil {
				err = os.WriteFile(filepath.Join(p.dir, scenario+"-"+n.Name+".pprof"), []byte(body), 0o644)
			}
			done <- err
		}()
	}
	return func() error {
		for range p.nodes {
			if err := <-done; err != nil {
				return err
			}
		}
		return nil
	}
}
