// SPDX-License-Identifier: Apache-2.0

package cluster

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"slices"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/warren-mesh/warren/tests/cluster/machine"
)

// Prerequisites names everything this machine lacks, each with its remedy.
func Prerequisites() error {
	if os.Geteuid() != 0 {
		return errors.New("start cluster: needs root, for namespaces, cgroups and mounts (run it with sudo)")
	}
	var missing []error
	lack := func(format string, args ...any) { missing = append(missing, fmt.Errorf(format, args...)) }
	// Programs are looked for where the machines' PATH has them, too.
	for _, p := range []struct{ program, pkg string }{
		{"go", "Go 1.26 or newer from https://go.dev/dl"}, {"ip", "iproute2"}, {"nft", "nftables"}, {"nsenter", "util-linux"}, {"nice", "coreutils"},
		{"mount", "mount"},
	} {
		if !found(p.program) {
			lack("%s is missing (install %s)", p.program, p.pkg)
		}
	}
	hs, err := machine.Hierarchies()
	if err != nil {
		return err
	}
	var controllers []string
	for _, h := range hs {
		controllers = append(controllers, strings.Split(h.Controllers, ",")...)
	}
	if !slices.Contains(controllers, "") {
		lack("cgroup2 is not mounted (mkdir -p /sys/fs/cgroup/unified && mount -t cgroup2 cgroup2 /sys/fs/cgroup/unified)")
	}
	if machine.UnifiedOnly(hs) {
		if _, err := hs[0].Parent(true); err != nil {
			missing = append(missing, err)
		}
	} else {
		for _, c := range append(slices.Clone(machine.NodeControllers), "cpuset", "devices", "freezer") {
			if !slices.Contains(controllers, c) {
				lack("the cgroup controller %s is not mounted (mkdir -p /sys/fs/cgroup/%[1]s && mount -t cgroup -o %[1]s cgroup /sys/fs/cgroup/%[1]s)", c)
			}
		}
	}
	filesystems, _ := os.ReadFile("/proc/filesystems")
	for kind, remedy := range map[string]string{"overlay": "modprobe overlay", "bpf": "a kernel with CONFIG_BPF_SYSCALL"} {
		if !bytes.Contains(filesystems, []byte("\t"+kind+"\n")) && exec.Command("modprobe", "--dry-run", kind).Run() != nil {
			lack("the kernel has no %s file system (%s)", kind, remedy)
		}
	}
	for _, m := range []struct{ at, module, why string }{
		{"/proc/sys/net/bridge", "br_netfilter", "services between pods of one node need it"},
		{"/proc/sys/net/netfilter", "nf_conntrack", "kube-proxy needs it"},
	} {
		if _, err := os.Stat(m.at); err != nil {
			lack("the kernel module %s is not loaded: %s (modprobe %[1]s)", m.module, m.why)
		}
	}
	if _, err := os.Stat("/proc/sys/net/ipv6/conf/all"); err != nil {
		lack("IPv6 is off: the cluster has both families (boot without ipv6.disable=1)")
	}
	if err := errors.Join(missing...); err != nil {
		return fmt.Errorf("start cluster: this machine lacks something:\n%w", err)
	}
	return nil
}

// watches is how many inotify instances a cluster of two nodes takes: 31 were counted with Warren on it. A containerd that
// gets none runs without its CRI, and its kubelet starts again and again.
const watches = 40

// watchesLeft fails if the kernel has fewer left for this user: several clusters share them.
func watchesLeft() error {
	for n := range watches {
		fd, err := unix.InotifyInit1(unix.IN_CLOEXEC)
		if err != nil {
			return fmt.Errorf("of inotify instances %d are left, a cluster takes %d: %w (end another cluster, or sysctl -w fs.inotify.max_user_instances=512)", n, watches, err)
		}
		defer unix.Close(fd)
	}
	return nil
}

func found(program string) bool {
	if _, err := exec.LookPath(program); err == nil {
		return true
	}
	for _, dir := range []string{"/usr/sbin/", "/sbin/"} {
		if _, err := os.Stat(dir + program); err == nil {
			return true
		}
	}
	return false
}
