// SPDX-License-Identifier: Apache-2.0

package mesh

const (
	recentSteps   = 256  // how far back Since reaches
	recentChanges = 4096 // a step of more is not kept: comparing snapshots costs no more
)

// recent is the changes of a store's last steps, so that whoever follows the store pays for what changed
// and not for the size of the mesh. Guarded by Store.mu.
type recent struct {
	steps [recentSteps]struct {
		version uint64 // the snapshot it led to; 0 for none
		changes []Change
	}
}

func (r *recent) note(version uint64, changes []Change) {
	slot := &r.steps[version%recentSteps]
	slot.version, slot.changes = version, nil
	if len(changes) > recentChanges {
		slot.version = 0
	} else {
		slot.changes = changes
	}
}

// Since returns the current snapshot and the changes that led to it from the snapshot of that version, in
// order. ok is false where they are no longer known; then compare the snapshots. The changes must not be
// modified.
func (s *Store) Since(version uint64) (changes []Change, now *Snapshot, ok bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	now = s.Snapshot()
	if version > now.Version() || now.Version()-version > recentSteps {
		return nil, now, false
	}
	for v := version + 1; v <= now.Version(); v++ {
		slot := &s.recent.steps[v%recentSteps]
		if slot.version != v {
			return nil, now, false
		}
		changes = append(changes, slot.changes...)
	}
	return changes, now, true
}
