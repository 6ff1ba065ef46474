// SPDX-License-Identifier: Apache-2.0

package wds

import (
	"cmp"
	"log/slog"
	"slices"
	"strconv"
	"time"

	discovery "github.com/envoyproxy/go-control-plane/envoy/service/discovery/v3"

	"github.com/warren-mesh/warren/mesh"
)

// subscription is what one stream wants of one type.
type subscription struct {
	fresh    bool // the first response is still to come; it is sent even if it is empty
	wildcard bool
	names    map[string]bool   // wanted by name where there is no wildcard
	again    map[string]bool   // asked for by name just now: answered whether or not it changed
	have     map[string]string // initial_resource_versions, until the first response
	seq      uint64            // what the client has been sent
}

func (s *subscription) wants(name string) bool { return s.wildcard || s.names[name] }

// stream is the state of one client. At most one round of responses is on its way to it; what happens
// meanwhile waits in the hub, coalesced. Used by one goroutine; subs' seq also by prune, under hub.mu.
type stream struct {
	log     *slog.Logger
	subs    map[string]*subscription
	pending map[string]string // nonce to type, of responses not yet answered
	nonce   uint64
	sent    time.Time // when the last round went out
}

func newStream(log *slog.Logger) *stream {
	return &stream{log: log, subs: make(map[string]*subscription), pending: make(map[string]string)}
}

// seq returns up to where the client has been sent everything it wants; the caller holds hub.mu.
func (s *stream) seq() uint64 {
	low := ^uint64(0)
	for _, sub := range s.subs {
		if !sub.fresh {
			low = min(low, sub.seq)
		}
	}
	return low
}

// request takes in a subscription, an acknowledgement or both. The caller holds hub.mu.
func (s *stream) request(r *discovery.DeltaDiscoveryRequest) {
	if n := r.GetResponseNonce(); n != "" {
		s.answer(n, r)
	}
	switch r.GetTypeUrl() {
	case TypeAddress, TypeAuthorization, TypeConfig:
	default:
		s.log.Debug("ignore subscription of unknown type", "type", r.GetTypeUrl())
		return
	}
	sub := s.subs[r.TypeUrl]
	if sub == nil {
		sub = &subscription{
			fresh: true, wildcard: len(r.ResourceNamesSubscribe) == 0,
			names: make(map[string]bool), again: make(map[string]bool), have: r.InitialResourceVersions,
		}
		s.subs[r.TypeUrl] = sub
	}
	for _, n := range r.ResourceNamesSubscribe {
		if n == "*" {
			sub.fresh, sub.wildcard = sub.fresh || !sub.wildcard, true
			continue
		}
		sub.names[n], sub.again[n] = true, true
	}
	for _, n := range r.ResourceNamesUnsubscribe {
		if n == "*" {
			sub.wildcard = false
		}
		delete(sub.names, n)
		delete(sub.again, n)
	}
}

func (s *stream) answer(nonce string, r *discovery.DeltaDiscoveryRequest) {
	if _, ours := s.pending[nonce]; !ours {
		return
	}
	delete(s.pending, nonce)
	if e := r.GetErrorDetail(); e != nil {
		s.log.Warn("client rejected resources", "type", r.GetTypeUrl(), "err", e.GetMessage())
	}
}

// round returns the responses that bring the client up to date, none if it is. Their order is deliberate:
// what is referred to comes before what refers to it (policies, then services, then workloads), and goes
// after it; a deny comes before an allow. A policy whose scope narrowed to the workloads that refer to it comes
// after them. The caller holds hub.mu, which refresh brought up to date.
func (s *stream) round(h *hub) []*discovery.DeltaDiscoveryResponse {
	var out []*discovery.DeltaDiscoveryResponse
	add := func(r *discovery.DeltaDiscoveryResponse, even bool) {
		if r != nil && (even || len(r.Resources) > 0 || len(r.RemovedResources) > 0) {
			s.nonce++
			r.Nonce = strconv.FormatUint(s.nonce, 10)
			r.SystemVersionInfo = strconv.FormatUint(h.seq, 10)
			s.pending[r.Nonce] = r.TypeUrl
			out = append(out, r)
		}
	}
	config, fresh := s.news(h, TypeConfig)
	add(config, fresh)
	policies, fresh := s.news(h, TypeAuthorization)
	late := &discovery.DeltaDiscoveryResponse{TypeUrl: TypeAuthorization}
	if policies != nil {
		late.RemovedResources, policies.RemovedResources = policies.RemovedResources, nil
		if !fresh { // who knows nothing yet waits for everything
			policies.Resources, late.Resources = h.splitNarrowed(policies.Resources)
		}
	}
	add(policies, fresh)
	addresses, fresh := s.news(h, TypeAddress)
	add(addresses, fresh)
	add(late, false)
	return out
}

// news returns what the client lacks of one type, nil if it has not subscribed, and whether this is the
// first response to its subscription.
func (s *stream) news(h *hub, typeURL string) (*discovery.DeltaDiscoveryResponse, bool) {
	sub := s.subs[typeURL]
	if sub == nil {
		return nil, false
	}
	if sub.fresh {
		sub.seq = 0
	} else if sub.seq == h.seq && len(sub.again) == 0 {
		return nil, false
	}
	r := &discovery.DeltaDiscoveryResponse{TypeUrl: typeURL}
	from := sub.seq
	if len(sub.again) > 0 {
		from = 0
	}
	var put []*entry
	for _, e := range h.feeds[typeURL].since(from) {
		name := e.res.Name
		asked := sub.again[name]
		delete(sub.again, name)
		switch {
		case !sub.wants(name) || e.seq <= sub.seq && !asked:
			continue
		case e.gone():
			if _, has := sub.have[name]; has || !sub.fresh || asked {
				r.RemovedResources = append(r.RemovedResources, name)
			}
		case sub.have[name] != e.res.Version:
			put = append(put, e)
		}
		delete(sub.have, name)
	}
	for name := range sub.have { // the client has it, and nothing here does
		r.RemovedResources = append(r.RemovedResources, name)
	}
	for name := range sub.again { // asked for by name, and not there
		r.RemovedResources = append(r.RemovedResources, name)
	}
	slices.SortStableFunc(put, func(a, b *entry) int { return cmp.Compare(a.rank, b.rank) })
	for _, e := range put {
		r.Resources = append(r.Resources, e.res)
	}
	first := sub.fresh
	sub.fresh, sub.have, sub.seq = false, nil, h.seq
	clear(sub.again)
	return r, first
}

// splitNarrowed parts resources, which are in the order of their ranks, before the first narrowed policy.
func (h *hub) splitNarrowed(rs []*discovery.Resource) (others, narrowed []*discovery.Resource) {
	i := slices.IndexFunc(rs, func(r *discovery.Resource) bool {
		n, err := mesh.ParseName(r.Name)
		e := h.policies.entries[n]
		return err == nil && e != nil && e.rank == rankNarrowed
	})
	if i < 0 {
		return rs, nil
	}
	return rs[:i:i], rs[i:]
}
