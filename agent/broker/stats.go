// SPDX-License-Identifier: Apache-2.0

package broker

import (
	"errors"
	"maps"
	"slices"

	wire "github.com/warren-mesh/warren/mesh/broker"
)

// stats runs in the loop. What does not fit a message is left out, the pods' figures first.
func (b *Broker) stats(id uint64) wire.Stats {
	s := wire.Stats{
		ID: id, Verified: b.verified, Drifts: b.drifts, Repairs: b.repairs, Ztunnels: len(b.ztunnels),
		Pools: b.spaces.stats(), Pods: map[string]wire.State{}, Files: slices.Sorted(maps.Keys(b.cfg.Files)),
		Failures: failures(&b.excepting, &b.saving),
	}
	var err error
	if s.Reasons, err = b.dp.Reasons(); err != nil {
		b.log.Error("read kernel counters", "err", err)
	}
	for uid, p := range b.pods {
		s.Pods[uid] = p.state
	}
	for _, smaller := range []func(){
		func() { s.Pods = nil },
		func() { s.Pools = nil },
		func() { s.Drifts = s.Drifts[:min(len(s.Drifts), 16)] },
	} {
		if _, err := wire.Encode(wire.TypeStats, s); !errors.Is(err, wire.ErrTooLong) {
			break
		}
		smaller()
	}
	return s
}
