// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"fmt"
	"os"
	"os/exec"
	"runtime"
	"strconv"
	"strings"
	"testing"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/link"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// attached counts the kernel programs that a pod's connections meet: at its cgroup and above, in its network namespace, and
// at the host's end of its veth.
func attached(t *testing.T, p *Pod) int {
	t.Helper()
	app, err := p.process()
	if err != nil {
		t.Fatal(err)
	}
	cgroup, err := os.Open(app.Cgroup)
	if err != nil {
		t.Fatal(err)
	}
	defer cgroup.Close()
	netns, err := os.Open(fmt.Sprintf("/proc/%d/ns/net", app.PID))
	if err != nil {
		t.Fatal(err)
	}
	defer netns.Close()
	n := 0
	for _, a := range []ebpf.AttachType{ebpf.AttachCGroupInet4Connect, ebpf.AttachCGroupInet6Connect, ebpf.AttachCGroupSockOps,
		ebpf.AttachCgroupInet4GetPeername, ebpf.AttachCgroupInet6GetPeername, ebpf.AttachCGroupGetsockopt, ebpf.AttachCGroupSetsockopt} {
		n += query(t, int(cgroup.Fd()), a, unix.BPF_F_QUERY_EFFECTIVE)
	}
	n += query(t, int(netns.Fd()), ebpf.AttachSkLookup, 0)
	node, err := p.mesh.PID(p.Node)
	if err != nil {
		t.Fatal(err)
	}
	in(t, app.PID, func() {
		l, err := netlink.LinkByName("eth0")
		if err != nil {
			t.Error(err)
			return
		}
		peer := l.Attrs().ParentIndex
		in(t, node, func() { n += query(t, peer, ebpf.AttachTCXIngress, 0) })
	})
	return n
}

func query(t *testing.T, target int, a ebpf.AttachType, flags uint32) int {
	r, err := link.QueryPrograms(link.QueryOptions{Target: target, Attach: a, QueryFlags: flags})
	if err != nil {
		t.Errorf("query %v: %v", a, err)
		return 0
	}
	return len(r.Programs)
}

// in runs f in the network namespace of a process.
func in(t *testing.T, pid int, f func()) {
	t.Helper()
	done := make(chan struct{})
	go func() {
		defer close(done)
		runtime.LockOSThread() // and never unlock: the thread ends here
		ns, err := os.Open(fmt.Sprintf("/proc/%d/ns/net", pid))
		if err != nil {
			t.Error(err)
			return
		}
		defer ns.Close()
		if err := unix.Setns(int(ns.Fd()), unix.CLONE_NEWNET); err != nil {
			t.Error(err)
			return
		}
		f()
	}()
	<-done
}

// sysctls are those that capture changes in the pod's network namespace.
func sysctls(t *testing.T, p *Pod) string {
	t.Helper()
	app, err := p.process()
	if err != nil {
		t.Fatal(err)
	}
	out, err := exec.Command("nsenter", "--target", strconv.Itoa(app.PID), "--net", "cat",
		"/proc/sys/net/ipv4/tcp_tw_reuse", "/proc/sys/net/ipv4/ip_local_reserved_ports").Output()
	if err != nil {
		t.Fatal(err)
	}
	return strings.ReplaceAll(strings.TrimRight(string(out), "\n")+" ", "\n", " ")
}
