// SPDX-License-Identifier: Apache-2.0

package bpf

import (
	"testing"

	"github.com/cilium/ebpf"
)

// TestInflightOfManyCPUs: the kernel takes a map larger than the pattern, and its memory is what is documented.
func TestInflightOfManyCPUs(t *testing.T) {
	n := newNode(t)
	for cpus, most := range map[int]uint64{8: 470 << 10, 64: 1340 << 10} {
		spec := n.d.objects.inflight.Copy()
		spec.MaxEntries = inflightEntries(4096, cpus)
		m := must1(ebpf.NewMap(spec))(t)
		defer m.Close()
		must(t, n.d.maps[mapOrigDst].Put(uint64(1)<<60, m))
		must(t, n.d.maps[mapOrigDst].Delete(uint64(1)<<60))
		info := must1(m.Info())(t)
		if mem, ok := info.Memlock(); !ok || mem > most {
			t.Errorf("%d CPUs: %d bytes, at most %d are told", cpus, mem, most)
		} else {
			t.Logf("%d CPUs: %d entries, %d bytes", cpus, spec.MaxEntries, mem)
		}
	}
}
