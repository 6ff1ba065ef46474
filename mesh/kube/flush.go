// SPDX-License-Identifier: Apache-2.0

package kube

import (
	"maps"
	"reflect"
	"slices"

	"github.com/warren-mesh/warren/mesh"
)

// emitted is what the translator has told so far, so that it tells only differences.
type emitted struct {
	config    *mesh.Config
	peer      map[mesh.Name]*mesh.Policy // made from PeerAuthentications
	authz     map[mesh.Name]*mesh.Policy
	services  map[mesh.Name]*mesh.Service
	workloads map[string]*mesh.Workload
	bySlice   map[mesh.Name]set[string] // workload uids
	local     map[string]LocalPod       // by pod uid
	localUID  map[mesh.Name]string
}

func newEmitted() emitted {
	return emitted{
		authz:     map[mesh.Name]*mesh.Policy{},
		services:  map[mesh.Name]*mesh.Service{},
		workloads: map[string]*mesh.Workload{},
		bySlice:   map[mesh.Name]set[string]{},
		local:     map[string]LocalPod{},
		localUID:  map[mesh.Name]string{},
	}
}

// batch gathers a step's changes: what others refer to is put first and deleted last (configuration,
// policies, services, workloads; then backwards).
type batch struct {
	puts, deletes []mesh.Change
	result        Result
}

// flush looks again at everything that may have changed.
func (t *Translator) flush() Result {
	b := &batch{}
	t.flushConfig(b)
	policiesGone := append(t.flushPeerAuths(b), t.flushAuthz(b)...)
	servicesGone := t.flushServices(b)
	for _, n := range sorted(t.dirtyPods) {
		t.flushPod(b, n)
	}
	for _, n := range sorted(t.dirtySlices) {
		t.flushSlice(b, n)
	}
	clear(t.dirtyPods)
	clear(t.dirtySlices)
	b.result.Namespaces = t.standing()
	b.result.Changes = slices.Concat(b.puts, b.deletes, servicesGone, policiesGone)
	return b.result
}

func (t *Translator) flushConfig(b *batch) {
	if !t.dirtyConfig {
		return
	}
	t.dirtyConfig = false
	if c := t.meshConfig(); t.emitted.config == nil || !c.Equal(t.emitted.config) {
		t.emitted.config = c
		b.puts = append(b.puts, mesh.PutConfig{Config: c})
	}
}

func (t *Translator) flushPeerAuths(b *batch) (gone []mesh.Change) {
	if !t.dirtyPeerAuth {
		return nil
	}
	t.dirtyPeerAuth = false
	now, before := t.peerPolicies(), t.emitted.peer
	for _, n := range slices.SortedFunc(maps.Keys(now), compareNames) {
		if !reflect.DeepEqual(now[n], before[n]) {
			b.puts = append(b.puts, mesh.PutPolicy{Policy: now[n]})
		}
	}
	for _, n := range slices.SortedFunc(maps.Keys(before), compareNames) {
		if now[n] == nil {
			gone = append(gone, mesh.DeletePolicy{Name: n})
		}
	}
	t.emitted.peer = now
	return gone
}

func (t *Translator) flushAuthz(b *batch) (gone []mesh.Change) {
	for _, n := range sorted(t.dirtyAuthz) {
		var p *mesh.Policy
		if a := t.authz[n]; a != nil {
			p = t.withAliases(a.policy)
		}
		old := t.emitted.authz[n]
		switch {
		case p == nil && old != nil:
			delete(t.emitted.authz, n)
			gone = append(gone, mesh.DeletePolicy{Name: n})
		case p != nil && !reflect.DeepEqual(p, old):
			t.emitted.authz[n] = p
			b.puts = append(b.puts, mesh.PutPolicy{Policy: p})
		}
	}
	clear(t.dirtyAuthz)
	return gone
}

func (t *Translator) flushServices(b *batch) (gone []mesh.Change) {
	for _, n := range sorted(t.dirtyServices) {
		s, old := t.services[n], t.emitted.services[n]
		switch {
		case s == nil && old != nil:
			delete(t.emitted.services, n)
			gone = append(gone, mesh.DeleteService{Name: n})
		case s != nil && !reflect.DeepEqual(s, old):
			t.emitted.services[n] = s
			b.puts = append(b.puts, mesh.PutService{Service: s})
		}
	}
	clear(t.dirtyServices)
	return gone
}

func (t *Translator) flushPod(b *batch, n mesh.Name) {
	uid := t.cfg.Cluster + "//Pod/" + n.String()
	p := t.pods[n]
	if p == nil {
		t.deleteWorkload(b, uid)
		t.deleteLocal(b, n)
		return
	}
	enrolled, why := t.enrolled(p)
	if !Undecided(why) {
		p.observe(p, enrolled, t.cfg.Now())
	}
	t.putWorkload(b, t.workload(uid, p, enrolled, why))
	if t.cfg.Node != "" && p.node == t.cfg.Node {
		t.putLocal(b, p, enrolled, why)
	} else {
		t.deleteLocal(b, n)
	}
}

func (t *Translator) workload(uid string, p *pod, enrolled bool, why string) *mesh.Workload {
	w := &mesh.Workload{
		UID: uid, PodUID: p.uid,
		Namespace: p.name.Namespace, Name: p.name.Name,
		Addresses: p.addresses, Node: p.node,
		TrustDomain: t.cfg.TrustDomain, ServiceAccount: p.account,
		HostNetwork: p.hostNetwork, Ready: p.ready, Draining: p.draining, Except: p.except,
		WorkloadName: p.names.workload, WorkloadType: p.names.kind,
		CanonicalName: p.names.canonical, CanonicalRevision: p.names.revision,
		Cluster:  t.cfg.Cluster,
		Services: t.podEndpoints(p),
	}
	w.Capture, w.CaptureReason = p.capture(enrolled, why)
	if w.Capture == mesh.Captured {
		w.CapturedAt, w.CapturedRunning = p.capturedAt, p.capturedRan
	}
	if nd := t.nodes[p.node]; nd != nil {
		w.Region, w.Zone = nd.region, nd.zone
	}
	if n, ok := t.peerPolicy(p); ok {
		w.Policies = append(w.Policies, n)
	}
	w.Policies = append(w.Policies, t.authzPolicies(p)...)
	return w
}

func (t *Translator) flushSlice(b *batch, n mesh.Name) {
	now := map[string]*mesh.Workload{}
	if s := t.slices[n]; s != nil {
		now = t.sliceWorkloads(s)
	}
	for _, uid := range slices.Sorted(maps.Keys(t.emitted.bySlice[n])) {
		if now[uid] == nil {
			removeFrom(t.emitted.bySlice, n, uid)
			t.deleteWorkload(b, uid)
		}
	}
	for _, uid := range slices.Sorted(maps.Keys(now)) {
		addTo(t.emitted.bySlice, n, uid)
		t.putWorkload(b, now[uid])
	}
}

func (t *Translator) putWorkload(b *batch, w *mesh.Workload) {
	if !reflect.DeepEqual(w, t.emitted.workloads[w.UID]) {
		t.emitted.workloads[w.UID] = w
		b.puts = append(b.puts, mesh.PutWorkload{Workload: w})
	}
}

func (t *Translator) deleteWorkload(b *batch, uid string) {
	if t.emitted.workloads[uid] != nil {
		delete(t.emitted.workloads, uid)
		b.deletes = append(b.deletes, mesh.DeleteWorkload{UID: uid})
	}
}

func (t *Translator) putLocal(b *batch, p *pod, enrolled bool, why string) {
	l := LocalPod{
		UID: p.uid, Namespace: p.name.Namespace, Name: p.name.Name, ServiceAccount: p.account,
		Addresses: p.addresses, Enrolled: enrolled, Reason: why, Running: p.ranFirst,
		HostNetwork: p.hostNetwork, Except: p.except, Published: p.published,
	}
	if old, ok := t.emitted.localUID[p.name]; ok && old != p.uid {
		t.deleteLocal(b, p.name)
	}
	if old, ok := t.emitted.local[p.uid]; !ok || !reflect.DeepEqual(old, l) {
		t.emitted.local[p.uid], t.emitted.localUID[p.name] = l, p.uid
		b.result.LocalPods = append(b.result.LocalPods, l)
	}
}

func (t *Translator) deleteLocal(b *batch, n mesh.Name) {
	if uid, ok := t.emitted.localUID[n]; ok {
		delete(t.emitted.local, uid)
		delete(t.emitted.localUID, n)
		b.result.RemovedPods = append(b.result.RemovedPods, uid)
	}
}

func sorted(s set[mesh.Name]) []mesh.Name {
	return slices.SortedFunc(maps.Keys(s), compareNames)
}
