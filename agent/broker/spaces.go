// SPDX-License-Identifier: Apache-2.0

package broker

import (
	"sync"

	wire "github.com/warren-mesh/warren/mesh/broker"
)

// space is what making dial sockets for a pod takes.
type space struct {
	ns      *namespace
	credits *credits

	mu    sync.Mutex
	stats wire.PoolStats
}

func (s *space) count(asked, given int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.stats.Asked += uint64(asked)
	s.stats.Given += uint64(given)
	s.stats.Refused += uint64(asked - given)
}

// spaces are the namespaces that dial sockets may be made in, by pod uid. The loop writes, ztunnel connections
// read.
type spaces struct {
	rate, burst int

	mu    sync.RWMutex
	byPod map[string]*space
}

func newSpaces(rate, burst int) *spaces {
	return &spaces{rate: rate, burst: burst, byPod: map[string]*space{}}
}

func (s *spaces) add(uid string, ns *namespace) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if old := s.byPod[uid]; old != nil && old.ns == ns {
		return
	}
	s.byPod[uid] = &space{ns: ns, credits: newCredits(s.rate, s.burst)}
}

func (s *spaces) remove(uid string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.byPod, uid)
}

func (s *spaces) get(uid string) *space {
	s.mu.RLock()
	defer s.mu.RUnlock()
	return s.byPod[uid]
}

func (s *spaces) stats() map[string]wire.PoolStats {
	s.mu.RLock()
	defer s.mu.RUnlock()
	out := make(map[string]wire.PoolStats, len(s.byPod))
	for uid, sp := range s.byPod {
		sp.mu.Lock()
		out[uid] = sp.stats
		sp.mu.Unlock()
	}
	return out
}
