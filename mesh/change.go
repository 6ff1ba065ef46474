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

func (c PutWorkload) apply(s *Snapshot) {
	DeleteWorkload{UID: c.Workload.UID}.apply(s)
	w := c.Workload
	s.workloads = s.workloads.Set(w.UID, w)
	if w.PodUID != "" {
		s.byPod = s.byPod.Set(w.PodUID, w)
	}
	if !w.HostNetwork {
		for _, a := range w.Addresses {
			s.byAddr = s.byAddr.Set(a.Unmap(), w)
		}
	}
	for n := range w.Services {
		eps := get(s.endpoints, n)
		if eps == nil {
			eps = newMap[string, *Workload]()
		}
		s.endpoints = s.endpoints.Set(n, eps.Set(w.UID, w))
	}
}

func (c DeleteWorkload) apply(s *Snapshot) {
	old := get(s.workloads, c.UID)
	if old == nil {
		return
	}
	s.workloads = s.workloads.Delete(c.UID)
	s.byPod = deleteIf(s.byPod, old.PodUID, old)
	for _, a := range old.Addresses {
		s.byAddr = deleteIf(s.byAddr, a.Unmap(), old)
	}
	for n := range old.Services {
		eps := get(s.endpoints, n)
		if eps == nil {
			continue
		}
		if eps = eps.Delete(c.UID); eps.Len() == 0 {
			s.endpoints = s.endpoints.Delete(n)
		} else {
			s.endpoints = s.endpoints.Set(n, eps)
		}
	}
}

func (c PutService) apply(s *Snapshot) {
	DeleteService{Name: c.Service.NamespacedName()}.apply(s)
	v := c.Service
	s.services = s.services.Set(v.NamespacedName(), v)
	if v.Hostname != "" {
		s.byHost = s.byHost.Set(v.Hostname, v)
	}
	for _, a := range v.Addresses {
		s.byVIP = s.byVIP.Set(a.Unmap(), v)
	}
}

func (c DeleteService) apply(s *Snapshot) {
	old := get(s.services, c.Name)
	if old == nil {
		return
	}
	s.services = s.services.Delete(c.Name)
	s.byHost = deleteIf(s.byHost, old.Hostname, old)
	for _, a := range old.Addresses {
		s.byVIP = deleteIf(s.byVIP, netip.Addr(a.Unmap()), old)
	}
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
