// SPDX-License-Identifier: Apache-2.0

package zds

import "time"

// next returns what p is to be told next. If that is nothing (kind 0), the time says when a pod that the
// ztunnel could not take is due again; zero when none is. Removals come first: an address may be another
// pod's by now. A node's pods are few enough to look through them each time.
func (s *Server) next(p *peer) (task, time.Time) {
	s.mu.Lock()
	defer s.mu.Unlock()
	newest := len(s.conns) > 0 && s.conns[len(s.conns)-1] == p
	for uid, t := range p.told {
		// A pod that went and came again while an older ztunnel had it is the newest one's.
		if want, ok := s.pods[uid]; !ok || !newest && want.serial != t.serial {
			return task{request: request{kindDel, Workload{UID: uid}}}, time.Time{}
		}
	}
	var retry time.Time
	// Until its snapshot is out an older one is told of all, too: what that lacks it ends to serve.
	if newest || !p.snapshot {
		var add task
		if add, retry = s.nextAdd(p); add.kind != 0 {
			return add, time.Time{}
		}
	}
	if s.synced && !p.snapshot { // failed adds don't hold it up
		return task{request: request{kind: kindSnapshotSent}}, time.Time{}
	}
	return task{}, retry
}

// nextAdd returns the pod that waits longest for being told to p, or when the next failed one is due.
func (s *Server) nextAdd(p *peer) (first task, retry time.Time) {
	now := time.Now()
	for uid, want := range s.pods {
		t, known := p.told[uid]
		if known && t.serial == want.serial {
			if t.retry.IsZero() {
				continue
			}
			if now.Before(t.retry) {
				if retry.IsZero() || t.retry.Before(retry) {
					retry = t.retry
				}
				continue
			}
		}
		if first.kind == 0 || want.serial < first.serial {
			first = task{request{kindAdd, want.Workload}, want.serial}
		}
	}
	return first, retry
}
