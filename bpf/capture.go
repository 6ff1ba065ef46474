// SPDX-License-Identifier: Apache-2.0

package bpf

import (
	"errors"
	"fmt"
	"net/netip"

	"github.com/cilium/ebpf"
	"golang.org/x/sys/unix"
)

// Enable starts the pod's capture: from now on its new connections, out and in, go to its listeners. Those to except,
// at most MaxExcept prefixes, don't, nor those to what SetExceptions named. Repeated, it changes addresses and
// exceptions and leaves the time of capture alone.
func (d *Datapath) Enable(p Pod, except ...netip.Prefix) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.pods[p.Cookie] == nil {
		return fmt.Errorf("capture pod %d: %w", p.Cookie, ErrUnknownPod)
	}
	// The maps that carry addresses first: a connection redirected without them is refused.
	for _, name := range []string{mapOrigDst, mapClientAddr} {
		if err := d.ensureInflight(name, p.Cookie); err != nil {
			return fmt.Errorf("capture pod %d: %w", p.Cookie, err)
		}
	}
	excepted, err := podExceptionsFrom(p.Cookie, except)
	if err != nil {
		return fmt.Errorf("capture pod %d: %w", p.Cookie, err)
	}
	if err := putAll(d.maps[mapPodExcept], excepted); err != nil {
		return fmt.Errorf("capture pod %d: %w", p.Cookie, err)
	}
	v := sockopsPod{Ip4: addrFrom(p.IPv4), Ip6: addrFrom(p.IPv6), Flags: flagCaptured}
	if p.Running {
		v.Flags |= flagGrace
	}
	var old sockopsPod
	if err := d.maps[mapPods].Lookup(p.Cookie, &old); err == nil && old.Flags&flagCaptured != 0 {
		v.CapturedNs = old.CapturedNs
	} else {
		v.CapturedNs = monotonic()
	}
	if len(excepted) > 0 {
		v.Flags |= flagExcept
	}
	if err := d.maps[mapPods].Put(p.Cookie, &v); err != nil {
		return fmt.Errorf("capture pod %d: %w", p.Cookie, err)
	}
	if err := d.keepPodExceptions(p.Cookie, excepted); err != nil {
		return fmt.Errorf("capture pod %d: %w", p.Cookie, err)
	}
	return nil
}

// Disable ends the pod's capture: new connections go direct at once, port 15008 included. What the sockets already
// carry (peers' names, original destinations) stays with them.
func (d *Datapath) Disable(cookie uint64) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	if err := d.forget(cookie); err != nil {
		return fmt.Errorf("end capture of pod %d: %w", cookie, err)
	}
	return nil
}

// KeepHBONE ends the pod's capture but for port 15008, which still goes to its listener: for pods that leave the mesh
// while tunnels live. The rules for the broker's own sockets, and the clients' addresses they carry, hold on.
func (d *Datapath) KeepHBONE(cookie uint64) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	var v sockopsPod
	if err := d.maps[mapPods].Lookup(cookie, &v); err != nil {
		return fmt.Errorf("drain pod %d: %w", cookie, err)
	}
	v.Flags = flagKeepHBONE
	if err := d.maps[mapPods].Put(cookie, &v); err != nil {
		return fmt.Errorf("drain pod %d: %w", cookie, err)
	}
	return nil
}

// Pods lists the pods that are attached or captured, after a restart too. Addresses are zero in those attached only.
func (d *Datapath) Pods() ([]Pod, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	var (
		out    []Pod
		cookie uint64
		v      sockopsPod
	)
	seen := map[uint64]bool{}
	it := d.maps[mapPods].Iterate()
	for it.Next(&cookie, &v) {
		seen[cookie] = true
		out = append(out, Pod{Cookie: cookie, IPv4: addrTo(v.Ip4), IPv6: addrTo(v.Ip6), Running: v.Flags&flagGrace != 0})
	}
	if err := it.Err(); err != nil {
		return nil, fmt.Errorf("list pods: %w", err)
	}
	for cookie := range d.pods {
		if !seen[cookie] {
			out = append(out, Pod{Cookie: cookie})
		}
	}
	return out, nil
}

// forget takes a pod out of the shared maps, pods first: then nothing looks for the others.
func (d *Datapath) forget(cookie uint64) error {
	var errs []error
	for _, name := range []string{mapPods, mapOrigDst, mapClientAddr} {
		if err := d.maps[name].Delete(cookie); err != nil && !errors.Is(err, ebpf.ErrKeyNotExist) {
			errs = append(errs, fmt.Errorf("delete from %s: %w", name, err))
		}
	}
	return errors.Join(append(errs, d.keepPodExceptions(cookie, nil))...)
}

func (d *Datapath) ensureInflight(name string, cookie uint64) error {
	var id uint32
	if err := d.maps[name].Lookup(cookie, &id); err == nil {
		return nil
	}
	inner, err := ebpf.NewMap(d.objects.inflight)
	if err != nil {
		return fmt.Errorf("create map in %s: %w", name, err)
	}
	defer inner.Close()
	if err := d.maps[name].Put(cookie, inner); err != nil {
		return fmt.Errorf("put map into %s: %w", name, err)
	}
	return nil
}

// monotonic reads the clock that bpf_ktime_get_ns reads.
func monotonic() uint64 {
	var t unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_MONOTONIC, &t); err != nil {
		panic(err) // the clock exists on every Linux
	}
	return uint64(t.Nano())
}
