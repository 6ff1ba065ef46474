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
// brings it up to date: one encoding per object that changed, and where the store no longer knows what
// changed, one comparison of pointers per object.
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

// refresh takes in the store's current snapshot. The caller holds mu.
func (h *hub) refresh(store *mesh.Store) {
	var changes []mesh.Change
	var now *mesh.Snapshot
	known := false
	if h.base == nil {
		now = store.Snapshot()
	} else if changes, now, known = store.Since(h.base.Version()); now == h.base {
		return
	}
	h.base = now
	h.seq++
	if known {
		h.takeChanges(changes)
	} else {
		h.takeAll()
	}
	h.prune()
}

// takeAll compares everything with what was served so far.
func (h *hub) takeAll() {
	h.policies.found, h.services.found, h.loads.found = 0, 0, 0
	h.takeConfig(h.base.Config())
	h.base.Policies(func(p *mesh.Policy) bool { h.takePolicy(p); return true })
	h.base.Services(func(v *mesh.Service) bool { h.takeService(v); return true })
	h.base.Workloads(func(w *mesh.Workload) bool { h.takeWorkload(w); return true })
	h.policies.sweep(h.seq)
	h.services.sweep(h.seq)
	h.loads.sweep(h.seq)
}

// takeChanges looks only at the objects the changes are of; what they are now the snapshot says.
func (h *hub) takeChanges(changes []mesh.Change) {
	for _, c := range changes {
		switch c := c.(type) {
		case mesh.PutConfig:
			h.takeConfig(h.base.Config())
		case mesh.PutPolicy:
			h.lookPolicy(c.Policy.Name)
		case mesh.DeletePolicy:
			h.lookPolicy(c.Name)
		case mesh.PutService:
			h.lookService(c.Service.NamespacedName())
		case mesh.DeleteService:
			h.lookService(c.Name)
		case mesh.PutWorkload:
			h.lookWorkload(c.Workload.UID)
		case mesh.DeleteWorkload:
			h.lookWorkload(c.UID)
		}
	}
}

func (h *hub) lookPolicy(n mesh.Name) {
	if p := h.base.Policy(n); p != nil {
		h.takePolicy(p)
		return
	}
	h.policies.remove(n, h.seq)
}

func (h *hub) lookService(n mesh.Name) {
	if v := h.base.Service(n); v != nil {
		h.takeService(v)
		return
	}
	h.services.remove(n, h.seq)
}

func (h *hub) lookWorkload(uid string) {
	if w := h.base.Workload(uid); w != nil {
		h.takeWorkload(w)
		return
	}
	h.loads.remove(uid, h.seq)
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
	switch {
	case h.narrowed(p):
		rank = rankNarrowed
	case p.Action == mesh.Allow:
		rank = 1 // deny before allow
	}
	res, err := newResource(p.Name.String(), FromPolicy(p), nil)
	take(h, h.policies, p.Name, p, rank, res, err)
}

// rankNarrowed is a policy's that once was its namespace's or the mesh's and now is that of the workloads that
// refer to it: clients must hear of their references first, or nothing would apply it for a moment.
const rankNarrowed = 2

func (h *hub) narrowed(p *mesh.Policy) bool {
	e := h.policies.entries[p.Name]
	if e == nil || e.gone() || p.Scope != mesh.ScopeWorkload {
		return false
	}
	old, ok := e.src.(*mesh.Policy)
	return e.rank == rankNarrowed || ok && old.Scope != mesh.ScopeWorkload
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

// prune forgets removals that every stream has sent.
func (h *hub) prune() {
	seen := h.seq
	for s := range h.streams {
		seen = min(seen, s.seq())
	}
	h.policies.prune(seen)
	h.services.prune(seen)
	h.loads.prune(seen)
}
