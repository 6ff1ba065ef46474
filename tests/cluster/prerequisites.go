// SPDX-License-Identifier: Apache-2.0

package cluster

import (
	"errors"
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"

	"github.com/warren-mesh/warren/tests/cluster/machine"
)

// host is what this machine has, as it is looked up.
type host struct {
	root func() bool
	// program is on PATH, or where the machines' PATH has it, too.
	program func(name string) bool
	// library is one that pkg-config knows.
	library func(name string) bool
	path    func(path string) bool
	// filesystem is one that the kernel has, or has a module for.
	filesystem  func(kind string) bool
	hierarchies func() ([]machine.Hierarchy, error)
	// built says whether the outcome of a recipe is in the cache.
	built func(recipe string) (bool, error)
	// watch takes one inotify instance.
	watch func() (io.Closer, error)
}

// prerequisites names everything the machine lacks, each with its remedy.
func (h host) prerequisites() error {
	if !h.root() {
		return errors.New("needs root, for namespaces, cgroups and mounts (run it with sudo)")
	}
	missing := slices.Concat(h.lackingPrograms(), h.lackingTools(), h.lackingCgroups(), h.lackingKernel())
	if err := errors.Join(missing...); err != nil {
		return fmt.Errorf("this machine lacks something:\n%w", err)
	}
	return nil
}

func (h host) lackingPrograms() (missing []error) {
	for _, p := range []struct{ program, pkg string }{
		{"ip", "iproute2"}, {"nft", "nftables"}, {"nsenter", "util-linux"}, {"nice", "coreutils"}, {"mount", "mount"},
	} {
		if !h.program(p.program) {
			missing = append(missing, fmt.Errorf("%s is missing (install %s)", p.program, p.pkg))
		}
	}
	return missing
}

// lackingTools are what the cluster's programs are compiled with. A C compiler is for runc alone, once.
func (h host) lackingTools() (missing []error) {
	if !h.program("go") { // and then nobody knows what was built with it
		return []error{errors.New("go is missing (install Go 1.26 or newer from https://go.dev/dl)")}
	}
	built, err := h.built("runc")
	if err != nil {
		return []error{err}
	}
	if built {
		return nil
	}
	for _, p := range []struct{ program, pkg string }{{"gcc", "gcc libc6-dev"}, {"pkg-config", "pkg-config"}} {
		if !h.program(p.program) {
			missing = append(missing, fmt.Errorf("%s is missing: runc is compiled with it (apt-get install %s)", p.program, p.pkg))
		}
	}
	if !h.library("libseccomp") && !h.program("apt-get") {
		missing = append(missing, errors.New("libseccomp is missing, and apt-get to fetch it with: runc is linked with it (install its development package, "+
			"libseccomp-dev or libseccomp-devel)"))
	}
	return missing
}

func (h host) lackingCgroups() (missing []error) {
	hs, err := h.hierarchies()
	if err != nil {
		return []error{err}
	}
	if machine.UnifiedOnly(hs) {
		if _, err := hs[0].Parent(true); err != nil {
			return []error{err}
		}
		return nil
	}
	var controllers []string
	for _, h := range hs {
		controllers = append(controllers, strings.Split(h.Controllers, ",")...)
	}
	if !slices.Contains(controllers, "") {
		missing = append(missing, errors.New("cgroup2 is not mounted (mkdir -p /sys/fs/cgroup/unified && mount -t cgroup2 cgroup2 /sys/fs/cgroup/unified)"))
	}
	for _, c := range append(slices.Clone(machine.NodeControllers), "cpuset", "devices", "freezer") {
		if !slices.Contains(controllers, c) {
			missing = append(missing, fmt.Errorf("the cgroup controller %s is not mounted (mkdir -p /sys/fs/cgroup/%[1]s && mount -t cgroup -o %[1]s cgroup /sys/fs/cgroup/%[1]s)", c))
		}
	}
	return missing
}

func (h host) lackingKernel() (missing []error) {
	remedies := map[string]string{"overlay": "modprobe overlay", "bpf": "a kernel with CONFIG_BPF_SYSCALL"}
	for _, kind := range slices.Sorted(maps.Keys(remedies)) {
		if !h.filesystem(kind) {
			missing = append(missing, fmt.Errorf("the kernel has no %s file system (%s)", kind, remedies[kind]))
		}
	}
	for _, m := range []struct{ at, module, why string }{
		{"/proc/sys/net/bridge", "br_netfilter", "services between pods of one node need it"},
		{"/proc/sys/net/netfilter", "nf_conntrack", "kube-proxy needs it"},
	} {
		if !h.path(m.at) {
			missing = append(missing, fmt.Errorf("the kernel module %s is not loaded: %s (modprobe %[1]s)", m.module, m.why))
		}
	}
	if !h.path("/proc/sys/net/ipv6/conf/all") {
		missing = append(missing, errors.New("IPv6 is off: the cluster has both families (boot without ipv6.disable=1)"))
	}
	return missing
}

// watches is how many inotify instances a cluster of two nodes takes: 31 were counted with Warren on it. A containerd that
// gets none runs without its CRI, and its kubelet starts again and again.
const watches = 40

// watchesLeft fails if the kernel has fewer left for this user: several clusters share them.
func (h host) watchesLeft() error {
	for n := range watches {
		w, err := h.watch()
		if err != nil {
			return fmt.Errorf("of inotify instances %d are left, a cluster takes %d: %w (end another cluster, or sysctl -w fs.inotify.max_user_instances=512)", n, watches, err)
		}
		defer w.Close()
	}
	return nil
}
