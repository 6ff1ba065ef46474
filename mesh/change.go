// SPDX-License-Identifier: Apache-2.0

package mesh

import (
	"net/netip"

	"github.com/benbjohnson/immutable"
)

// Change is one difference between two snapshots. The set is closed: PutWorkload, DeleteWorkload,
// PutService, DeleteService, PutPolicy, DeletePolicy, PutConfig.
type Change interface{ apply(*Snapshot) }

// PutWorkload adds or replaces a workload by its UID.
type PutWorkload struct{ Workload *Workload }

// DeleteWorkload removes a workload; one that is missing is no error.
type DeleteWorkload struct{ UID string }

// PutService adds or replaces a service by its name.
type PutService struct{ Service *Service }

// DeleteService removes a service; one that is missing is no error. Its endpoints stay as workloads.
type DeleteService struct{ Name Name }

// PutPolicy adds or replaces a policy by its name.
type PutPolicy struct{ Policy *Policy }

// DeletePolicy removes a policy; one that is missing is no error.
type DeletePolicy struct{ Name Name }

// PutConfig replaces the mesh-wide configuration.
type PutConfig struct{ Config *Config }

// With returns a snapshot with the changes applied in order; s itself does not change.
func (s *Snapshot) With(changes ...Change) *Snapshot {
	if len(changes) == 0 {
		return s
	}
	n := *s
	for _, c := range changes {
		c.apply(&n)
	}
	n.version++
	return &n
}

func (c PutWorkload) apply(s *Snapshot) { s.setWorkload(c.Workload.UID, c.Workload) }

func (c DeleteWorkload) apply(s *Snapshot) { s.setWorkload(c.UID, nil) }

// setWorkload replaces the workload of a uid; nil removes it. An address it keeps stays in its place among
// those that claim it.
func (s *Snapshot) setWorkload(uid string, w *Workload) {
	old := get(s.workloads, uid)
	if old == nil && w == nil {
		return
	}
	s.byAddr = s.byAddr.move(uid, old.claimedAddrs(), w.claimedAddrs(), w)
	if old != nil {
		s.byPod = deleteIf(s.byPod, old.PodUID, old)
		for n := range old.Services {
			s.dropEndpoint(n, uid)
		}
	}
	if w == nil {
		s.workloads = s.workloads.Delete(uid)
		return
	}
	s.workloads = s.workloads.Set(uid, w)
	if w.PodUID != "" {
		s.byPod = s.byPod.Set(w.PodUID, w)
	}
	for n := range w.Services {
		eps := get(s.endpoints, n)
		if eps == nil {
			eps = newMap[string, *Workload]()
		}
		s.endpoints = s.endpoints.Set(n, eps.Set(uid, w))
	}
}

func (s *Snapshot) dropEndpoint(service Name, uid string) {
	eps := get(s.endpoints, service)
	if eps == nil {
		return
	}
	if eps = eps.Delete(uid); eps.Len() == 0 {
		s.endpoints = s.endpoints.Delete(service)
	} else {
		s.endpoints = s.endpoints.Set(service, eps)
	}
}

// claimedAddrs are the addresses the workload is found by.
func (w *Workload) claimedAddrs() []netip.Addr {
	if w == nil || w.HostNetwork {
		return nil
	}
	return unmapped(w.Addresses)
}

func (c PutService) apply(s *Snapshot) { s.setService(c.Service.NamespacedName(), c.Service) }

func (c DeleteService) apply(s *Snapshot) { s.setService(c.Name, nil) }

// setService replaces the service of a name; nil removes it.
func (s *Snapshot) setService(n Name, v *Service) {
	old := get(s.services, n)
	if old == nil && v == nil {
		return
	}
	s.byVIP = s.byVIP.move(n, old.claimedAddrs(), v.claimedAddrs(), v)
	s.byHost = s.byHost.move(n, old.claimedHosts(), v.claimedHosts(), v)
	if v == nil {
		s.services = s.services.Delete(n)
		return
	}
	s.services = s.services.Set(n, v)
}

func (s *Service) claimedAddrs() []netip.Addr {
	if s == nil {
		return nil
	}
	return unmapped(s.Addresses)
}

func (s *Service) claimedHosts() []string {
	if s == nil || s.Hostname == "" {
		return nil
	}
	return []string{s.Hostname}
}

func unmapped(as []netip.Addr) []netip.Addr {
	out := make([]netip.Addr, len(as))
	for i, a := range as {
		out[i] = a.Unmap()
	}
	return out
}

func (c PutPolicy) apply(s *Snapshot) {
	DeletePolicy{Name: c.Policy.Name}.apply(s)
	s.policies = s.policies.Set(c.Policy.Name, c.Policy)
	if key, ok := scopeKey(c.Policy); ok {
		m := get(s.byScope, key)
		if m == nil {
			m = newMap[Name, *Policy]()
		}
		s.byScope = s.byScope.Set(key, m.Set(c.Policy.Name, c.Policy))
	}
}

func (c DeletePolicy) apply(s *Snapshot) {
	old := get(s.policies, c.Name)
	if old == nil {
		return
	}
	s.policies = s.policies.Delete(c.Name)
	if key, ok := scopeKey(old); ok {
		if m := get(s.byScope, key).Delete(c.Name); m.Len() == 0 {
			s.byScope = s.byScope.Delete(key)
		} else {
			s.byScope = s.byScope.Set(key, m)
		}
	}
}

func (c PutConfig) apply(s *Snapshot) { s.config = c.Config }

// scopeKey is a policy's key in Snapshot.byScope: "" for the mesh, else its namespace; none for workload scope.
func scopeKey(p *Policy) (string, bool) {
	switch p.Scope {
	case ScopeMesh:
		return "", true
	case ScopeNamespace:
		return p.Name.Namespace, true
	default:
		return "", false
	}
}

// deleteIf removes k only while it still answers with v: a later claimant keeps its entry.
func deleteIf[K comparable, V comparable](m *immutable.Map[K, V], k K, v V) *immutable.Map[K, V] {
	if cur, ok := m.Get(k); ok && cur == v {
		return m.Delete(k)
	}
	return m
}
