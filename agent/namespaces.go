// SPDX-License-Identifier: Apache-2.0

package agent

import (
	"context"
	"time"

	"github.com/warren-mesh/warren/mesh/cni"
)

// cacheEvery is how often the cache for the CNI plugin is compared. It counts only while no agent runs.
const cacheEvery = 500 * time.Millisecond

func (a *Agent) namespaces() cni.Namespaces {
	n := a.source.Standing()
	return cni.Namespaces{Enrolled: n.Enrolled, Excluded: n.Excluded, Outside: n.Outside}
}

func (a *Agent) standing(namespace string) cni.Standing { return a.namespaces().Of(namespace) }

// cacheNamespaces keeps the file that the CNI plugin reads while no agent answers.
func (a *Agent) cacheNamespaces(ctx context.Context) error {
	tick := time.NewTicker(cacheEvery)
	defer tick.Stop()
	var written *cni.Namespaces
	for last := ""; ; {
		if now := a.namespaces(); written == nil || !written.Equal(now) {
			if err := cni.WriteNamespaces(a.cfg.StateDir, now); err == nil {
				written, last = &now, ""
			} else if err.Error() != last {
				last = err.Error()
				a.cfg.Log.Error("no pod will start while this agent is down", "err", err)
			}
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return nil
		}
	}
}
