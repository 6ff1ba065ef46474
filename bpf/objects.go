// SPDX-License-Identifier: Apache-2.0

package bpf

import (
	"errors"
	"fmt"
	"maps"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/asm"
	"github.com/cilium/ebpf/btf"
	"github.com/cilium/ebpf/features"
)

// Names of the shared maps, as in include/maps.h. They are also the names of their pins.
const (
	mapPods       = "pods"
	mapOrigDst    = "orig_dst"
	mapClientAddr = "client_addr"
	mapExempts    = "exempts"
	mapExceptions = "exceptions"
	mapPodExcept  = "pod_exceptions"
	mapStats      = "stats"
	mapListeners  = "listeners" // one per pod
	mapInflight   = "inflight"  // a pattern only
)

// objects holds the parsed ELF files, ready to be loaded any number of times.
type objects struct {
	node     []*ebpf.CollectionSpec // programs attached once
	lookup   *ebpf.CollectionSpec   // loaded per pod
	guard    *ebpf.CollectionSpec   // loaded per pod
	shared   map[string]*ebpf.MapSpec
	inflight *ebpf.MapSpec
	cache    *btf.Cache
}

func parseObjects() (*objects, error) {
	var errs []error
	parse := func(load func() (*ebpf.CollectionSpec, error)) *ebpf.CollectionSpec {
		spec, err := load()
		errs = append(errs, err)
		return spec
	}
	sockops := parse(loadSockops)
	o := &objects{
		node:   []*ebpf.CollectionSpec{parse(loadConnect), parse(loadGetpeername), sockops, parse(loadSockopt)},
		lookup: parse(loadLookup),
		guard:  parse(loadGuard),
		cache:  btf.NewCache(),
	}
	if err := errors.Join(errs...); err != nil {
		return nil, err
	}
	have := features.HaveProgramHelper(ebpf.SockOps, asm.FnSkcToMptcpSock) == nil
	if err := sockops.Variables["have_mptcp_sock"].Set(have); err != nil {
		return nil, fmt.Errorf("set have_mptcp_sock: %w", err)
	}
	o.inflight = o.lookup.Maps[mapInflight]
	scaleInflight(o.inflight)
	for _, spec := range append([]*ebpf.CollectionSpec{o.lookup, o.guard}, o.node...) {
		delete(spec.Maps, mapInflight)
	}
	o.shared = maps.Clone(o.node[0].Maps)
	return o, nil
}

// loadPrograms loads every program of spec on top of the given maps. The caller closes them.
func (o *objects) loadPrograms(spec *ebpf.CollectionSpec, have map[string]*ebpf.Map) (map[string]*ebpf.Program, error) {
	use := make(map[string]*ebpf.Map, len(spec.Maps))
	for name := range spec.Maps {
		if m, ok := have[name]; ok {
			use[name] = m
		}
	}
	coll, err := ebpf.NewCollectionWithOptions(spec, ebpf.CollectionOptions{MapReplacements: use, Cache: o.cache})
	if err != nil {
		return nil, fmt.Errorf("load programs: %w", err)
	}
	progs := coll.Programs
	coll.Programs = nil
	coll.Close()
	return progs, nil
}

// loadForPod loads the one program of spec for the pod with the netns cookie.
func (o *objects) loadForPod(spec *ebpf.CollectionSpec, name string, cookie uint64, have map[string]*ebpf.Map) (*ebpf.Program, error) {
	spec = spec.Copy()
	if err := spec.Variables["pod_cookie"].Set(cookie); err != nil {
		return nil, fmt.Errorf("set pod_cookie: %w", err)
	}
	progs, err := o.loadPrograms(spec, have)
	if err != nil {
		return nil, err
	}
	return progs[name], nil
}
