// SPDX-License-Identifier: Apache-2.0

package explain

import (
	"net/netip"
	"strings"

	"github.com/warren-mesh/warren/mesh"
)

// source is where the connection comes from: a workload, or an address nobody claims.
type source struct {
	workload *mesh.Workload
	addr     netip.Addr // what was asked for, where that was an address
}

// from is the source's address towards dst; invalid when it has none of that family.
func (s source) from(dst netip.Addr) netip.Addr {
	if s.addr.IsValid() && s.addr.Is4() == dst.Is4() {
		return s.addr
	}
	if s.workload == nil {
		return netip.Addr{}
	}
	return addressOf(s.workload.Addresses, family(dst))
}

func family(a netip.Addr) int {
	if a.Unmap().Is4() {
		return 4
	}
	return 6
}

// addressOf is the first address of a family; of IPv4, or else the first, for family 0. Invalid when there is none.
func addressOf(addrs []netip.Addr, f int) netip.Addr {
	for _, a := range addrs {
		if a = a.Unmap(); f == family(a) || f == 0 && a.Is4() {
			return a
		}
	}
	if f == 0 && len(addrs) > 0 {
		return addrs[0].Unmap()
	}
	return netip.Addr{}
}

func findSource(snap *mesh.Snapshot, s string) (source, error) {
	if a, err := netip.ParseAddr(s); err == nil {
		a = a.Unmap()
		return source{workload: snap.WorkloadByAddr(a), addr: a}, nil
	}
	if w := snap.WorkloadByPod(s); w != nil && s != "" {
		return source{workload: w}, nil
	}
	if n, err := mesh.ParseName(strings.TrimPrefix(s, "pod/")); err == nil {
		if w := workloadNamed(snap, n); w != nil {
			return source{workload: w}, nil
		}
	}
	return source{}, notFound("source %q (want a pod's namespace/name, its uid, or an address)", s)
}

// workloadNamed is the one of that name whose uid comes first.
func workloadNamed(snap *mesh.Snapshot, n mesh.Name) (found *mesh.Workload) {
	snap.Workloads(func(w *mesh.Workload) bool {
		if w.NamespacedName() == n && (found == nil || w.UID < found.UID) {
			found = w
		}
		return true
	})
	return found
}

// findDestination gives the addresses an application would get by name, at least one.
func findDestination(snap *mesh.Snapshot, src source, q Query) ([]netip.AddrPort, error) {
	at := func(as ...netip.Addr) (out []netip.AddrPort) {
		for _, a := range as {
			out = append(out, netip.AddrPortFrom(a.Unmap(), q.Port))
		}
		return out
	}
	if a, err := netip.ParseAddr(strings.Trim(q.Destination, "[]")); err == nil {
		return at(a), nil
	}
	svc, w := named(snap, src, q.Destination)
	switch {
	case svc != nil && len(svc.Addresses) > 0:
		if a := addressOf(svc.Addresses, q.Family); a.IsValid() {
			return at(a), nil
		}
		return nil, notFound("service %s has no IPv%d address", svc.NamespacedName(), q.Family)
	case svc != nil:
		return headless(snap, svc, q, at)
	case w != nil:
		if a := addressOf(w.Addresses, q.Family); a.IsValid() {
			return at(a), nil
		}
		return nil, notFound("pod %s has no such address", w.NamespacedName())
	}
	return nil, notFound("destination %q (want an address, namespace/name of a service or pod, or a service's host name; of what lies outside the cluster, its address)", q.Destination)
}

// headless names resolve to the endpoints themselves.
func headless(snap *mesh.Snapshot, svc *mesh.Service, q Query, at func(...netip.Addr) []netip.AddrPort) (out []netip.AddrPort, err error) {
	for _, w := range snap.Endpoints(svc.NamespacedName()) {
		if !w.Ready && !svc.PublishNotReady {
			continue
		}
		if a := addressOf(w.Addresses, q.Family); a.IsValid() {
			out = append(out, at(a)...)
		}
	}
	if len(out) == 0 {
		return nil, notFound("service %s is headless and has no ready endpoint: its name resolves to nothing", svc.NamespacedName())
	}
	return out, nil
}

// named is the service or workload of a name as people write it.
func named(snap *mesh.Snapshot, src source, s string) (*mesh.Service, *mesh.Workload) {
	if kind, rest, ok := strings.Cut(s, "/"); ok {
		n, err := mesh.ParseName(s)
		if kind == "service" || kind == "pod" {
			if long, lerr := mesh.ParseName(rest); lerr == nil {
				n, err = long, nil
			} else {
				kind = ""
			}
		}
		if err != nil {
			return nil, nil
		}
		if svc := snap.Service(n); svc != nil && kind != "pod" {
			return svc, nil
		}
		if kind == "service" {
			return nil, nil
		}
		return nil, workloadNamed(snap, n)
	}
	host := strings.ToLower(strings.TrimSuffix(s, "."))
	if svc := snap.ServiceByHostname(host); svc != nil {
		return svc, nil
	}
	parts := strings.Split(strings.TrimSuffix(host, ".svc"), ".")
	if len(parts) == 1 && src.workload != nil {
		parts = append(parts, src.workload.Namespace)
	}
	if len(parts) != 2 {
		return nil, nil
	}
	return snap.Service(mesh.Name{Namespace: parts[1], Name: parts[0]}), nil
}
