// SPDX-License-Identifier: Apache-2.0

package bpf

import (
	"errors"
	"fmt"
	"net/netip"

	"github.com/cilium/ebpf"
	"github.com/warren-mesh/warren/mesh/reason"
)

// Exempt marks a socket as the broker's: it is not captured, the guard lets it out, and it may be told a client's
// address. The mark lives in the socket and goes where its descriptor goes. It never waits for the other methods, as
// dials wait for it; only Close and Remove must not run at the same time.
func (d *Datapath) Exempt(fd int) error {
	if err := d.exempts.Put(uint32(fd), &sockopsExempt{}); err != nil {
		return fmt.Errorf("exempt socket: %w", err)
	}
	return nil
}

// SetExceptions makes prefixes the destinations that are never captured, beside link-local, which always is one.
// Additions come before removals, so that no prefix in both sets is captured in between.
func (d *Datapath) SetExceptions(prefixes []netip.Prefix) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	want := make(map[sockopsException]bool, len(prefixes))
	var errs []error
	for _, p := range prefixes {
		k, err := exceptionFrom(p)
		if err != nil {
			errs = append(errs, err)
			continue
		}
		want[k] = true
	}
	if err := errors.Join(errs...); err != nil {
		return err
	}
	m := d.maps[mapExceptions]
	if err := putAll(m, want); err != nil {
		return err
	}
	return deleteFrom(m, func(k sockopsException) bool { return !want[k] })
}

// keepPodExceptions removes the pod's exceptions that are not wanted.
func (d *Datapath) keepPodExceptions(cookie uint64, want map[sockopsPodException]bool) error {
	of := halves(cookie)
	return deleteFrom(d.maps[mapPodExcept], func(k sockopsPodException) bool { return k.Cookie == of && !want[k] })
}

func putAll[K comparable](m *ebpf.Map, keys map[K]bool) error {
	for k := range keys {
		if err := m.Put(&k, uint32(1)); err != nil {
			return fmt.Errorf("add exception: %w", err)
		}
	}
	return nil
}

// deleteFrom removes the entries that are stale.
func deleteFrom[K comparable](m *ebpf.Map, stale func(K) bool) error {
	var (
		gone []K
		k    K
		v    uint32
	)
	it := m.Iterate()
	for it.Next(&k, &v) {
		if stale(k) {
			gone = append(gone, k)
		}
	}
	if err := it.Err(); err != nil {
		return fmt.Errorf("list exceptions: %w", err)
	}
	for _, k := range gone {
		if err := m.Delete(&k); err != nil && !errors.Is(err, ebpf.ErrKeyNotExist) {
			return fmt.Errorf("remove exception: %w", err)
		}
	}
	return nil
}

// Stats reads how often each reason applied in the kernel, summed over CPUs, since the first Load.
func (d *Datapath) Stats() ([reason.Max]uint64, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	var out [reason.Max]uint64
	for r := range out {
		var perCPU []uint64
		if err := d.maps[mapStats].Lookup(uint32(r), &perCPU); err != nil {
			return out, fmt.Errorf("read stats: %w", err)
		}
		for _, n := range perCPU {
			out[r] += n
		}
	}
	return out, nil
}
