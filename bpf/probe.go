// SPDX-License-Identifier: Apache-2.0

package bpf

import (
	"errors"
	"fmt"
	"math"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/asm"
	"github.com/cilium/ebpf/features"
	"github.com/cilium/ebpf/link"
)

// MissingFeatureError says that the running kernel lacks something Warren can't do without.
type MissingFeatureError struct {
	// Feature in the kernel's own words.
	Feature string
	// Since is the mainline version that brought it; distributions backport.
	Since string
	// Err is what the probe met.
	Err error
}

func (e *MissingFeatureError) Error() string {
	return fmt.Sprintf("kernel lacks %s (in mainline since %s): %v", e.Feature, e.Since, e.Err)
}

func (e *MissingFeatureError) Unwrap() error { return e.Err }

type feature struct {
	name, since string
	have        func() error
}

func mapType(t ebpf.MapType) func() error {
	return func() error { return features.HaveMapType(t) }
}

func progType(t ebpf.ProgramType) func() error {
	return func() error { return features.HaveProgramType(t) }
}

func helper(t ebpf.ProgramType, h asm.BuiltinFunc) func() error {
	return func() error { return features.HaveProgramHelper(t, h) }
}

// needed lists what the programs use beyond what every kernel with cgroup2 links has.
var needed = []feature{
	{"BPF_MAP_TYPE_LPM_TRIE", "4.11", mapType(ebpf.LPMTrie)},
	{"BPF_MAP_TYPE_HASH_OF_MAPS", "4.12", mapType(ebpf.HashOfMaps)},
	{"BPF_MAP_TYPE_SOCKMAP", "4.14", mapType(ebpf.SockMap)},
	{"BPF_MAP_TYPE_SK_STORAGE", "5.2", mapType(ebpf.SkStorage)},
	{"BPF_PROG_TYPE_CGROUP_SOCKOPT", "5.3", progType(ebpf.CGroupSockopt)},
	{"bpf_get_netns_cookie in cgroup connect programs", "5.7", helper(ebpf.CGroupSockAddr, asm.FnGetNetnsCookie)},
	{"bpf_sk_storage_get in cgroup connect programs", "5.8", helper(ebpf.CGroupSockAddr, asm.FnSkStorageGet)},
	{"bpf_sk_storage_get in sockopt programs", "5.3", helper(ebpf.CGroupSockopt, asm.FnSkStorageGet)},
	{"bpf_sk_storage_get in tc programs", "5.2", helper(ebpf.SchedCLS, asm.FnSkStorageGet)},
	{"BPF_PROG_TYPE_SK_LOOKUP", "5.9", progType(ebpf.SkLookup)},
	{"bpf_get_netns_cookie in sockops programs", "5.15", helper(ebpf.SockOps, asm.FnGetNetnsCookie)},
	{"tcx (ordered tc programs by links)", "6.6", haveTCX},
}

// Probe asks the kernel for everything the programs need. Each thing missing is a *MissingFeatureError in the
// joined error. It asks the kernel and not its version: distributions backport. Answers are cached.
func Probe() error {
	var errs []error
	for _, f := range needed {
		if err := f.have(); err != nil {
			if errors.Is(err, ebpf.ErrNotSupported) {
				err = &MissingFeatureError{Feature: f.name, Since: f.since, Err: err}
			} else {
				err = fmt.Errorf("probe %s: %w (are CAP_BPF and CAP_NET_ADMIN granted?)", f.name, err)
			}
			errs = append(errs, err)
		}
	}
	return errors.Join(errs...)
}

// haveTCX tries a link to an interface that can't exist: only a kernel that knows tcx gets as far as looking.
func haveTCX() error {
	prog, err := ebpf.NewProgram(&ebpf.ProgramSpec{
		Type:         ebpf.SchedCLS,
		License:      "Dual BSD/GPL",
		Instructions: asm.Instructions{asm.Mov.Imm(asm.R0, 0), asm.Return()},
	})
	if err != nil {
		return err
	}
	defer prog.Close()
	_, err = link.AttachTCX(link.TCXOptions{Interface: math.MaxInt32, Program: prog, Attach: ebpf.AttachTCXIngress})
	if errors.Is(err, ebpf.ErrNotSupported) {
		return err
	}
	return nil
}
