// SPDX-License-Identifier: Apache-2.0

package bpf

import "github.com/cilium/ebpf"

const (
	// inflightUse is how many connections of a pod can be on their way at once, on any CPUs, before one is evicted.
	inflightUse = 3072
	// inflightLocal is what a CPU may hold of an LRU map's free entries: the kernel hands them out by 128
	// (LOCAL_FREE_TARGET in kernel/bpf/bpf_lru_list.c; recent kernels fewer in a small map). When the common list is
	// empty it evicts, rather than take from another CPU: on 32 CPUs, 4,096 entries could be all on such lists.
	inflightLocal = 128
	// inflightCPUs bounds the memory. A pod that connects from more CPUs than that may be refused connections
	// before inflightUse is reached, where the kernel hands out 128.
	inflightCPUs = 64
)

// inflightEntries returns the size of one inner map of orig_dst or client_addr on a node of that many possible CPUs,
// at least the pattern's. Its memory is allocated at once: 96 bytes for each entry and 16 for each bucket, of which
// there are as many as entries, rounded up to a power of two. The two maps of a pod take 0.9 MiB up to 8 CPUs, 1.2 MiB
// at 16, 1.6 MiB at 32, and 2.6 MiB from 64 on.
func inflightEntries(pattern uint32, cpus int) uint32 {
	return max(pattern, inflightUse+inflightLocal*uint32(min(max(cpus, 1), inflightCPUs)))
}

// scaleInflight sizes the pattern for this node. Where the CPUs can't be counted it stays as it is. The kernel lets maps
// of several sizes into one outer map: those of pods captured before keep theirs.
func scaleInflight(pattern *ebpf.MapSpec) {
	if cpus, err := ebpf.PossibleCPU(); err == nil {
		pattern.MaxEntries = inflightEntries(pattern.MaxEntries, cpus)
	}
}
