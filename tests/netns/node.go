// SPDX-License-Identifier: Apache-2.0

package netns

import (
	"fmt"
	"net/netip"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// binDir is where a node's mount namespace shows the binaries: readable by every user, wherever the repository lies.
const binDir = "/run/warren-bin"

// Node is one machine of the mesh: a network namespace on the wire, a mount namespace with its own /run and bpffs,
// and a cgroup with kubelet and kubepods below it. Its process stands where the kubelet stands.
type Node struct {
	Name       string
	IPv4, IPv6 netip.Addr
	PodCIDRs   []netip.Prefix // IPv4, IPv6
	Cgroup     string         // directory: what a real node has as the root of cgroup v2

	mesh    *Mesh
	index   int
	sandbox *sandbox
	pods    int    // how many were made; numbers their addresses
	System  System // Warren's processes here; empty before Up
}

// Node returns the node of that name, and makes it when there is none yet.
func (m *Mesh) Node(name string) *Node {
	m.t.Helper()
	m.mu.Lock()
	defer m.mu.Unlock()
	for _, n := range m.nodes {
		if n.Name == name {
			return n
		}
	}
	n, err := m.newNode(name)
	if err != nil {
		m.t.Fatalf("make node %s: %v", name, err)
	}
	return n
}

func (m *Mesh) newNode(name string) (*Node, error) {
	i := len(m.nodes) + 1
	n := &Node{
		Name: name, IPv4: nth(wireIPv4, i), IPv6: nth(wireIPv6, i),
		PodCIDRs: []netip.Prefix{sub(podsIPv4, 24, i), sub(podsIPv6, 48, i)},
		Cgroup:   filepath.Join(m.cgroup, name), mesh: m, index: i,
	}
	for _, dir := range []string{"kubelet", "kubepods"} {
		if err := os.MkdirAll(filepath.Join(n.Cgroup, dir), 0o755); err != nil {
			return nil, err
		}
	}
	s, err := newSandbox(name, filepath.Join(n.Cgroup, "kubelet"), m.logPath(name))
	if err != nil {
		return nil, err
	}
	n.sandbox = s
	m.nodes = append(m.nodes, n) // from here on the mesh closes it
	if err := n.mounts(); err != nil {
		return nil, err
	}
	if err := s.do(request{Op: "sysctl", Sysctls: nodeSysctls}); err != nil {
		return nil, err
	}
	if err := m.wire.plug(n); err != nil {
		return nil, err
	}
	for _, other := range m.nodes[:i-1] {
		if err := n.routeTo(other); err != nil {
			return nil, err
		}
		if err := other.routeTo(n); err != nil {
			return nil, err
		}
	}
	m.put(n.object())
	return n, nil
}

// mounts gives the node its own /run, bpffs and a view of the binaries.
func (n *Node) mounts() error {
	steps := []request{
		{Op: "hostname", Path: n.Name},
		{Op: "mount", Mount: &mount{Source: "tmpfs", Target: "/run", Type: "tmpfs", Data: "mode=0755"}},
		{Op: "mkdir", Path: "/run/warren"},
		{Op: "mkdir", Path: binDir},
		{Op: "mount", Mount: &mount{Source: n.mesh.bin, Target: binDir, Flags: unix.MS_BIND}},
		{Op: "mount", Mount: &mount{Source: "bpf", Target: "/sys/fs/bpf", Type: "bpf", Data: "mode=0700"}},
	}
	for _, r := range steps {
		if err := n.sandbox.do(r); err != nil {
			return err
		}
	}
	return nil
}

func (n *Node) object() *corev1.Node {
	cidrs := []string{n.PodCIDRs[0].String(), n.PodCIDRs[1].String()}
	return &corev1.Node{
		TypeMeta:   metav1.TypeMeta{APIVersion: "v1", Kind: "Node"},
		ObjectMeta: metav1.ObjectMeta{Name: n.Name, UID: newUID()},
		Spec:       corev1.NodeSpec{PodCIDR: cidrs[0], PodCIDRs: cidrs},
		Status: corev1.NodeStatus{Addresses: []corev1.NodeAddress{
			{Type: corev1.NodeInternalIP, Address: n.IPv4.String()},
			{Type: corev1.NodeInternalIP, Address: n.IPv6.String()},
			{Type: corev1.NodeHostName, Address: n.Name},
		}},
	}
}

// HostNetns is the path of the node's network namespace, as a node's `/proc/1/ns/net` is.
func (n *Node) HostNetns() string { return fmt.Sprintf("/proc/%d/ns/net", n.sandbox.pid()) }

// here is where the node's own processes run, beside the kubelet.
func (n *Node) here() place {
	return place{net: n.sandbox.pid(), mnt: n.sandbox.pid(), cgroup: filepath.Join(n.Cgroup, "kubelet")}
}
