// SPDX-License-Identifier: Apache-2.0

package wds

import (
	"log/slog"
	"sync"
	"time"

	discovery "github.com/envoyproxy/go-control-plane/envoy/service/discovery/v3"

	"github.com/warren-mesh/warren/mesh"
	"github.com/warren-mesh/warren/mesh/wds/workloadpb"
)

// hub keeps the encoded state of a store for all streams. Whichever stream first sees a new snapshot
// brings it up to date: one comparison of pointers per object, one encoding per object that changed.
type hub struct {
	log    *slog.Logger
	domain string

	mu       sync.Mutex
	base     *mesh.Snapshot // what the tables hold
	seq      uint64         // counts the snapshots taken in
	feeds    map[string]*feed
	config   *table[string]
	policies *table[mesh.Name]
	services *table[mesh.Name]
	loads    *table[string]
	streams  map[*stream]struct{}
}

func newHub(log *slog.Logger, domain string) *hub {
	config, policies, addresses := newFeed(), newFeed(), newFeed()
	return &hub{
		log: log, domain: domain,
		feeds:    map[string]*feed{TypeConfig: config, TypeAuthorization: policies, TypeAddress: addresses},
		config:   newTable[string](config),
		policies: newTable[mesh.Name](policies),
		services: newTable[mesh.Name](addresses),
		loads:    newTable[string](addresses),
		streams:  make(map[*stream]struct{}),
	}
}

// refresh takes in a snapshot unless it, or a newer one, already was. The caller holds mu.
func (h *hub) refresh(s *mesh.Snapshot) {
	if h.base == s || h.base != nil && s.Version() < h.base.Version() {
		return
	}
	h.base = s
	h.seq++
	h.takeConfig(s.Config())
	s.Policies(func(p *mesh.Policy) bool { h.takePolicy(p); return true })
	s.Services(func(v *mesh.Service) bool { h.takeService(v); return true })
	s.Workloads(func(w *mesh.Workload) bool { h.takeWorkload(w); return true })
	h.config.sweep(h.seq)
	h.policies.sweep(h.seq)
	h.services.sweep(h.seq)
	h.loads.sweep(h.seq)
	h.prune()
}

func (h *hub) takeConfig(c *mesh.Config) {
	if !h.config.kept(ConfigName, c, h.seq) {
		res, err := newResource(ConfigName, FromConfig(c), nil)
		take(h, h.config, ConfigName, c, 0, res, err)
	}
}

func (h *hub) takePolicy(p *mesh.Policy) {
	if h.policies.kept(p.Name, p, h.seq) {
		return
	}
	rank := 0
	if p.Action == mesh.Allow {
		rank = 1 // deny before allow
	}
	res, err := newResource(p.Name.String(), FromPolicy(p), nil)
	take(h, h.policies, p.Name, p, rank, res, err)
}

func (h *hub) takeService(v *mesh.Service) {
	if h.services.kept(v.NamespacedName(), v, h.seq) {
		return
	}
	m := FromService(v, h.domain)
	res, err := newResource(m.Namespace+"/"+m.Hostname, wrapService(m), nil)
	take(h, h.services, v.NamespacedName(), v, 0, res, err)
}

func (h *hub) takeWorkload(w *mesh.Workload) {
	if h.loads.kept(w.UID, w, h.seq) {
		return
	}
	res, err := workloadResource(w, h.domain)
	take(h, h.loads, w.UID, w, 1, res, err)
}

// workloadResource leaves CapturedAt out of the version: each agent process has its own idea of it, and a
// restart of the agent is no news.
func workloadResource(w *mesh.Workload, domain string) (*discovery.Resource, error) {
	m := wrapWorkload(FromWorkload(w, domain))
	if w.CapturedAt.IsZero() {
		return newResource(w.UID, m, nil)
	}
	timeless := *w
	timeless.CapturedAt = time.Time{}
	return newResource(w.UID, m, wrapWorkload(FromWorkload(&timeless, domain)))
}

func wrapWorkload(m *workloadpb.Workload) *workloadpb.Address {
	return &workloadpb.Address{Type: &workloadpb.Address_Workload{Workload: m}}
}

func wrapService(m *workloadpb.Service) *workloadpb.Address {
	return &workloadpb.Address{Type: &workloadpb.Address_Service{Service: m}}
}

// take puts a freshly encoded object into its table. One that can't be encoded leaves what stood there.
func take[K comparable](h *hub, t *table[K], k K, src any, rank int, res *discovery.Resource, err error) {
	if err == nil {
		t.put(k, src, rank, res, h.seq)
		return
	}
	h.log.Error("serve object", "name", k, "err", err)
	if e := t.entries[k]; e != nil && !e.gone() {
		t.kept(k, e.src, h.seq)
	}
}

// prune forgets removals that every stream has sent, once there are enough to be worth a pass.
func (h *hub) prune() {
	const worth = 256
	seen := h.seq
	for s := range h.streams {
		seen = min(seen, s.seq())
	}
	for _, f := range h.feeds {
		if f.gone < worth {
			continue
		}
		switch f {
		case h.feeds[TypeAuthorization]:
			h.policies.prune(seen)
		case h.feeds[TypeAddress]:
			h.services.prune(seen)
			h.loads.prune(seen)
		}
	}
}
