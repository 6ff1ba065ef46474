// SPDX-License-Identifier: Apache-2.0

package bpf

import (
	"testing"

	"github.com/cilium/ebpf"
)

func TestInflightEntriesGrowWithCPUs(t *testing.T) {
	for cpus, want := range map[int]uint32{0: 4096, 1: 4096, 8: 4096, 9: 4224, 16: 5120, 32: 7168, 64: 11264, 1024: 11264} {
		got := inflightEntries(4096, cpus)
		if got != want {
			t.Errorf("%d CPUs: %d entries, want %d", cpus, got, want)
		}
		if cpus <= inflightCPUs && got < uint32(inflightUse+inflightLocal*cpus) {
			t.Errorf("%d CPUs: %d entries leave too few", cpus, got)
		}
	}
}

func TestInflightIsScaledForThisNode(t *testing.T) {
	o, err := parseObjects()
	if err != nil {
		t.Fatal(err)
	}
	cpus, err := ebpf.PossibleCPU()
	if err != nil {
		t.Fatal(err)
	}
	if got, want := o.inflight.MaxEntries, inflightEntries(4096, cpus); got != want {
		t.Errorf("%d entries, want %d", got, want)
	}
}
