// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"errors"
)

// memory measures resident memory: of a node's processes that have done nothing yet, or of both ends of the tunnel
// for each connection that was used once and is idle now. What the kernel holds for sockets is not in it.
func (s *system) memory(ctx context.Context, set settings, sc scenario, t *tally) error {
	before, err := resident(s.ends)
	if err != nil {
		return err
	}
	if sc.kind == kindIdle {
		all, err := resident(s.idle)
		t.add(sc.name, s.name, map[string]float64{"rss_mib": float64(all) / (1 << 20)})
		if s.name == warren {
			t.add(sc.name, "ztunnel", map[string]float64{"rss_mib": float64(before) / float64(len(s.ends)) / (1 << 20)})
		}
		return err
	}
	w, err := s.load(ctx, order{Kind: kindMemory, Target: s.target, Conns: set.idle, Size: sc.size})
	if err != nil {
		return err
	}
	after, err := resident(s.ends)
	if err != nil {
		return err
	}
	if _, err := w.proceed(); err != nil {
		return errors.Join(err, w.wait())
	}
	t.add(sc.name, s.name, map[string]float64{"kib_per_conn": float64(after-before) / 1024 / float64(set.idle)})
	return w.wait()
}
