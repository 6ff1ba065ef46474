// SPDX-License-Identifier: Apache-2.0

package proxy

import (
	"context"
	"time"

	"github.com/warren-mesh/warren/mesh"
)

// await tries each snapshot until try is satisfied. After the wait of every route.Need it tries once more with last set: then
// what is still missing is refused. It returns early, with the cause, only when ctx ends.
func (p *Proxy) await(ctx context.Context, try func(snap *mesh.Snapshot, last bool) bool) error {
	snap, changed := p.cfg.Store.Watch()
	if try(snap, false) {
		return nil
	}
	timeout := time.NewTimer(p.cfg.needWait)
	defer timeout.Stop()
	for {
		select {
		case <-changed:
			if snap, changed = p.cfg.Store.Watch(); try(snap, false) {
				return nil
			}
		case <-timeout.C:
			try(p.cfg.Store.Snapshot(), true)
			return nil
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
}

// workload is the pod's own workload, nil while the snapshot lacks it. A control plane that sends no pod uids is
// answered by one of the pod's addresses, if name and namespace agree.
func (pd *pod) workload(snap *mesh.Snapshot, own func() *mesh.Workload) *mesh.Workload {
	if w := snap.WorkloadByPod(pd.uid); w != nil {
		return w
	}
	w := own()
	pd.mu.Lock()
	defer pd.mu.Unlock()
	if w != nil && w.PodUID == "" && w.NamespacedName() == pd.name {
		return w
	}
	return nil
}
