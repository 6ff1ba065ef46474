// SPDX-License-Identifier: Apache-2.0

package mesh

import (
	"hash/maphash"
	"net/netip"

	"github.com/benbjohnson/immutable"
)

// Snapshot is everything a process knows about the mesh at one instant. It is immutable; With returns a new
// one that shares what did not change, so holding an old snapshot costs only the difference.
//
// Where two objects claim one address or host name, the one that claimed it last answers until it goes, then
// the one before it again. An update keeps an object's place.
type Snapshot struct {
	version   uint64
	workloads *immutable.Map[string, *Workload]
	byAddr    claims[netip.Addr, string, *Workload]
	byPod     *immutable.Map[string, *Workload]
	services  *immutable.Map[Name, *Service]
	byVIP     claims[netip.Addr, Name, *Service]
	byHost    claims[string, Name, *Service]
	endpoints *immutable.Map[Name, *immutable.Map[string, *Workload]]
	policies  *immutable.Map[Name, *Policy]
	byScope   *immutable.Map[string, *immutable.Map[Name, *Policy]]
	config    *Config
}

var seed = maphash.MakeSeed()

type comparableHasher[K comparable] struct{}

func (comparableHasher[K]) Hash(k K) uint32 { return uint32(maphash.Comparable(seed, k)) }
func (comparableHasher[K]) Equal(a, b K) bool {
	return a == b
}

func newMap[K comparable, V any]() *immutable.Map[K, V] {
	return immutable.NewMap[K, V](comparableHasher[K]{})
}

// NewSnapshot returns an empty snapshot, version 0.
func NewSnapshot() *Snapshot {
	return &Snapshot{
		workloads: newMap[string, *Workload](),
		byAddr:    newClaims[netip.Addr, string, *Workload](),
		byPod:     newMap[string, *Workload](),
		services:  newMap[Name, *Service](),
		byVIP:     newClaims[netip.Addr, Name, *Service](),
		byHost:    newClaims[string, Name, *Service](),
		endpoints: newMap[Name, *immutable.Map[string, *Workload]](),
		policies:  newMap[Name, *Policy](),
		byScope:   newMap[string, *immutable.Map[Name, *Policy]](),
		config:    &Config{},
	}
}

// Version counts the changes that led here.
func (s *Snapshot) Version() uint64 { return s.version }

// Config is the mesh-wide configuration; never nil.
func (s *Snapshot) Config() *Config { return s.config }

// Workload returns the workload of a mesh-wide uid, or nil.
func (s *Snapshot) Workload(uid string) *Workload { return get(s.workloads, uid) }

// WorkloadByAddr returns the workload that has address a (v4-mapped is unmapped), or nil. Host-network
// workloads share their node's address and are not found by it.
func (s *Snapshot) WorkloadByAddr(a netip.Addr) *Workload { return s.byAddr.get(a.Unmap()) }

// WorkloadByPod returns the workload of a pod's Kubernetes uid, or nil.
func (s *Snapshot) WorkloadByPod(uid string) *Workload { return get(s.byPod, uid) }

// Service returns the service of that name, or nil.
func (s *Snapshot) Service(n Name) *Service { return get(s.services, n) }

// ServiceByAddr returns the service that has virtual address a (v4-mapped is unmapped), or nil.
func (s *Snapshot) ServiceByAddr(a netip.Addr) *Service { return s.byVIP.get(a.Unmap()) }

// ServiceByHostname returns the service of that fully qualified host name, or nil.
func (s *Snapshot) ServiceByHostname(h string) *Service { return s.byHost.get(h) }

// Policy returns the policy of that name, or nil.
func (s *Snapshot) Policy(n Name) *Policy { return get(s.policies, n) }

// PoliciesFor calls f for each policy of mesh scope and each of namespace scope in that namespace, until it
// returns false. Policies of workload scope are reached by Workload.Policies and Policy.
func (s *Snapshot) PoliciesFor(namespace string, f func(*Policy) bool) {
	more := true
	for _, key := range [...]string{"", namespace} {
		if m := get(s.byScope, key); m != nil && more {
			each(m, func(p *Policy) bool { more = f(p); return more })
		}
	}
}

// SamePolicies reports whether s and o hold the very same policies, without comparing them one by one.
func (s *Snapshot) SamePolicies(o *Snapshot) bool { return s.policies == o.policies }

// PolicySet identifies policies, without comparing them one by one: those that apply to a namespace without being
// referenced, or all. Sets of one kind that are equal hold the very same policies.
type PolicySet struct{ mesh, namespace *immutable.Map[Name, *Policy] }

// PolicySet returns the identity of what PoliciesFor calls f with.
func (s *Snapshot) PolicySet(namespace string) PolicySet {
	return PolicySet{get(s.byScope, ""), get(s.byScope, namespace)}
}

// AllPolicies returns the identity of all policies, whatever their scope.
func (s *Snapshot) AllPolicies() PolicySet { return PolicySet{mesh: s.policies} }

// Endpoints returns the workloads that serve the service, in no particular order.
func (s *Snapshot) Endpoints(n Name) []*Workload {
	m := get(s.endpoints, n)
	if m == nil {
		return nil
	}
	out := make([]*Workload, 0, m.Len())
	for it := m.Iterator(); !it.Done(); {
		_, w, _ := it.Next()
		out = append(out, w)
	}
	return out
}

// Workloads calls f for each workload until it returns false.
func (s *Snapshot) Workloads(f func(*Workload) bool) { each(s.workloads, f) }

// Services calls f for each service until it returns false.
func (s *Snapshot) Services(f func(*Service) bool) { each(s.services, f) }

// Policies calls f for each policy until it returns false.
func (s *Snapshot) Policies(f func(*Policy) bool) { each(s.policies, f) }

func get[K comparable, V any](m *immutable.Map[K, V], k K) V {
	v, _ := m.Get(k)
	return v
}

func each[K comparable, V any](m *immutable.Map[K, V], f func(V) bool) {
	for it := m.Iterator(); !it.Done(); {
		_, v, _ := it.Next()
		if !f(v) {
			return
		}
	}
}
