// SPDX-License-Identifier: Apache-2.0

package mesh

import (
	"fmt"
	"maps"
	"math/rand/v2"
	"net/netip"
	"slices"
	"testing"
)

// model is the snapshot done naively: plain maps, and a number for each claim that says who came last.
type model struct {
	workloads map[string]*Workload
	services  map[Name]*Service
	policies  map[Name]*Policy
	clock     int
	claimed   map[any]map[string]int // address or host name -> claimant -> when
}

func newModel() *model {
	return &model{map[string]*Workload{}, map[Name]*Service{}, map[Name]*Policy{}, 0, map[any]map[string]int{}}
}

// claim says that id has these keys of one space now.
func (m *model) claim(space, id string, keys ...any) {
	for k, ids := range m.claimed {
		if k.([2]any)[0] == space && !slices.Contains(keys, k.([2]any)[1]) {
			delete(ids, id)
		}
	}
	for _, k := range keys {
		at := [2]any{space, k}
		if m.claimed[at] == nil {
			m.claimed[at] = map[string]int{}
		}
		if _, ok := m.claimed[at][id]; !ok {
			m.clock++
			m.claimed[at][id] = m.clock
		}
	}
}

// last is who claimed the key last, or "".
func (m *model) last(space string, key any) (id string) {
	best := 0
	for i, at := range m.claimed[[2]any{space, key}] {
		if at > best {
			id, best = i, at
		}
	}
	return id
}

func (m *model) apply(c Change) {
	addrs := func(as []netip.Addr) (out []any) {
		for _, a := range as {
			out = append(out, a.Unmap())
		}
		return out
	}
	switch c := c.(type) {
	case PutWorkload:
		m.workloads[c.Workload.UID] = c.Workload
		keys := addrs(c.Workload.Addresses)
		if c.Workload.HostNetwork {
			keys = nil
		}
		m.claim("addr", c.Workload.UID, keys...)
	case DeleteWorkload:
		delete(m.workloads, c.UID)
		m.claim("addr", c.UID)
	case PutService:
		n := c.Service.NamespacedName()
		m.services[n] = c.Service
		m.claim("vip", n.String(), addrs(c.Service.Addresses)...)
		m.claim("host", n.String(), c.Service.Hostname)
	case DeleteService:
		delete(m.services, c.Name)
		m.claim("vip", c.Name.String())
		m.claim("host", c.Name.String())
	case PutPolicy:
		m.policies[c.Policy.Name] = c.Policy
	case DeletePolicy:
		delete(m.policies, c.Name)
	}
}

// space is a small world, so that claims collide often.
type space struct {
	*rand.Rand
}

func (r space) addr() netip.Addr {
	switch i := byte(r.IntN(4)); r.IntN(3) {
	case 0:
		return netip.AddrFrom4([4]byte{10, 0, 0, i})
	case 1:
		return netip.AddrFrom16(netip.AddrFrom4([4]byte{10, 0, 0, i}).As16()) // v4-mapped: the same address
	default:
		return netip.AddrFrom16([16]byte{0xfd, 15: i})
	}
}

func (r space) addrs() (out []netip.Addr) {
	for range r.IntN(3) {
		out = append(out, r.addr())
	}
	return out
}

func (r space) name() Name  { return Name{"ns", fmt.Sprint(r.IntN(5))} }
func (r space) uid() string { return fmt.Sprint("w", r.IntN(6)) }

func (r space) change() Change {
	switch r.IntN(9) {
	case 0, 1, 2:
		w := &Workload{UID: r.uid(), PodUID: fmt.Sprint("p", r.Int()), Addresses: r.addrs(), HostNetwork: r.IntN(5) == 0}
		for range r.IntN(3) {
			if w.Services == nil {
				w.Services = map[Name]EndpointPorts{}
			}
			w.Services[r.name()] = EndpointPorts{80: uint16(r.IntN(100))}
		}
		return PutWorkload{w}
	case 3, 4:
		return DeleteWorkload{r.uid()}
	case 5, 6:
		n := r.name()
		return PutService{&Service{Namespace: n.Namespace, Name: n.Name, Hostname: fmt.Sprint("h", r.IntN(3)), Addresses: r.addrs()}}
	case 7:
		return DeleteService{r.name()}
	default:
		if r.IntN(2) == 0 {
			return DeletePolicy{r.name()}
		}
		return PutPolicy{&Policy{Name: r.name(), Scope: Scope(r.IntN(3))}}
	}
}

func TestSnapshotAgainstModel(t *testing.T) {
	for seed := range uint64(40) {
		r := space{rand.New(rand.NewPCG(seed, 1))}
		m, s := newModel(), NewSnapshot()
		var trail []string
		for range 200 {
			var step []Change
			for range 1 + r.IntN(4) {
				c := r.change()
				m.apply(c)
				step = append(step, c)
				trail = append(trail, fmt.Sprintf("%T%+v", c, c))
			}
			before, was := s, dump(s)
			s = s.With(step...)
			if diff := was.diff(dump(before)); diff != "" {
				t.Fatalf("seed %d: With changed the snapshot it was called on: %s", seed, diff)
			}
			if diff := compare(m, s); diff != "" {
				t.Fatalf("seed %d: %s\nafter %v", seed, diff, trail[max(0, len(trail)-12):])
			}
		}
	}
}

// compare returns the first difference between model and snapshot.
func compare(m *model, s *Snapshot) string {
	probe := space{rand.New(rand.NewPCG(7, 7))}
	for range 60 {
		a := probe.addr()
		if got, want := s.WorkloadByAddr(a), m.workloads[m.last("addr", a.Unmap())]; got != want {
			return fmt.Sprintf("workload by %v: got %+v, want %+v", a, got, want)
		}
		var want *Service
		if id := m.last("vip", a.Unmap()); id != "" {
			n, _ := ParseName(id)
			want = m.services[n]
		}
		if got := s.ServiceByAddr(a); got != want {
			return fmt.Sprintf("service by %v: got %+v, want %+v", a, got, want)
		}
	}
	for i := range 3 {
		h := fmt.Sprint("h", i)
		var want *Service
		if id := m.last("host", h); id != "" {
			n, _ := ParseName(id)
			want = m.services[n]
		}
		if got := s.ServiceByHostname(h); got != want {
			return fmt.Sprintf("service by host %s: got %+v, want %+v", h, got, want)
		}
	}
	want := dumped{Workloads: m.workloads, Services: m.services, Policies: m.policies}
	if diff := want.diff(dump(s)); diff != "" {
		return diff
	}
	for i := range 5 {
		n := Name{"ns", fmt.Sprint(i)}
		eps := map[string]*Workload{}
		for _, w := range s.Endpoints(n) {
			eps[w.UID] = w
		}
		wantEps := map[string]*Workload{}
		for uid, w := range m.workloads {
			if _, ok := w.Services[n]; ok {
				wantEps[uid] = w
			}
		}
		if !maps.Equal(eps, wantEps) {
			return fmt.Sprintf("endpoints of %s: got %v, want %v", n, eps, wantEps)
		}
	}
	for uid, w := range m.workloads {
		if s.WorkloadByPod(w.PodUID) != w {
			return "workload " + uid + " is not found by its pod"
		}
	}
	return ""
}

type dumped struct {
	Workloads map[string]*Workload
	Services  map[Name]*Service
	Policies  map[Name]*Policy
}

// diff compares the very objects, not their contents.
func (d dumped) diff(o dumped) string {
	switch {
	case !maps.Equal(d.Workloads, o.Workloads):
		return fmt.Sprintf("workloads: want %v, got %v", d.Workloads, o.Workloads)
	case !maps.Equal(d.Services, o.Services):
		return fmt.Sprintf("services: want %v, got %v", d.Services, o.Services)
	case !maps.Equal(d.Policies, o.Policies):
		return fmt.Sprintf("policies: want %v, got %v", d.Policies, o.Policies)
	}
	return ""
}

func dump(s *Snapshot) dumped {
	d := dumped{map[string]*Workload{}, map[Name]*Service{}, map[Name]*Policy{}}
	s.Workloads(func(w *Workload) bool { d.Workloads[w.UID] = w; return true })
	s.Services(func(v *Service) bool { d.Services[v.NamespacedName()] = v; return true })
	s.Policies(func(p *Policy) bool { d.Policies[p.Name] = p; return true })
	return d
}

func TestTwoClaimantsOfOneAddress(t *testing.T) {
	a := netip.MustParseAddr("10.0.0.1")
	first := &Workload{UID: "first", Addresses: []netip.Addr{a}}
	second := &Workload{UID: "second", Addresses: []netip.Addr{a}}
	s := NewSnapshot().With(PutWorkload{first}, PutWorkload{second})
	if got := s.WorkloadByAddr(a); got != second {
		t.Fatalf("got %v, want the later one", got)
	}
	again := &Workload{UID: "first", Addresses: []netip.Addr{a}, Ready: true}
	s = s.With(PutWorkload{again})
	if got := s.WorkloadByAddr(a); got != second {
		t.Errorf("an update of the earlier one took the address: %v", got)
	}
	if got := s.With(DeleteWorkload{"second"}).WorkloadByAddr(a); got != again {
		t.Errorf("the later one went: got %v, want the earlier one as updated", got)
	}
	if got := s.With(DeleteWorkload{"first"}).WorkloadByAddr(a); got != second {
		t.Errorf("the earlier one went: got %v, want the later one", got)
	}
	if got := s.With(DeleteWorkload{"first"}, DeleteWorkload{"second"}).WorkloadByAddr(a); got != nil {
		t.Errorf("both went: got %v", got)
	}
}
