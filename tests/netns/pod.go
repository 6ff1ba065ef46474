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

// Pod is a network namespace with a pause process and a cgroup, and the object that says so.
type Pod struct {
	Name, Namespace, UID string
	IPv4, IPv6           netip.Addr
	Node                 *Node

	sandbox *sandbox
	holds   holds
	hosts   string // the file bound to /etc/hosts
	veth    string // the host side's name in the node
	deleted bool
}

// PodOption changes the object of a pod before it starts.
type PodOption func(*corev1.Pod)

// In puts the pod into a namespace, which is made when it doesn't exist. Default: "default".
func In(namespace string) PodOption { return func(p *corev1.Pod) { p.Namespace = namespace } }

// ServiceAccount sets the pod's account, which is made when it doesn't exist. Default: "default".
func ServiceAccount(name string) PodOption {
	return func(p *corev1.Pod) { p.Spec.ServiceAccountName = name }
}

// Labels sets labels: key, value, key, value.
func Labels(pairs ...string) PodOption {
	return func(p *corev1.Pod) { p.Labels = join(p.Labels, pairs) }
}

// Annotations sets annotations: key, value, key, value.
func Annotations(pairs ...string) PodOption {
	return func(p *corev1.Pod) { p.Annotations = join(p.Annotations, pairs) }
}

// NotReady makes the pod's Ready condition false: it runs, but no service sends to it.
func NotReady() PodOption {
	return func(p *corev1.Pod) { setReady(p, false) }
}

// Object applies any other change to the object.
func Object(change func(*corev1.Pod)) PodOption { return change }

func join(m map[string]string, pairs []string) map[string]string {
	if m == nil {
		m = map[string]string{}
	}
	for i := 0; i+1 < len(pairs); i += 2 {
		m[pairs[i]] = pairs[i+1]
	}
	return m
}

func setReady(p *corev1.Pod, ready bool) {
	status := corev1.ConditionFalse
	if ready {
		status = corev1.ConditionTrue
	}
	p.Status.Conditions = []corev1.PodCondition{
		{Type: corev1.PodReady, Status: status, LastTransitionTime: metav1.Now()},
		{Type: corev1.ContainersReady, Status: status, LastTransitionTime: metav1.Now()},
	}
}

// Pod starts a pod on the node and writes its object. A name may be used once per namespace at a time.
func (n *Node) Pod(name string, options ...PodOption) *Pod {
	n.mesh.t.Helper()
	p, err := n.newPod(name, options)
	if err != nil {
		n.mesh.t.Fatalf("make pod %s: %v", name, err)
	}
	return p
}

func (n *Node) newPod(name string, options []PodOption) (*Pod, error) {
	m := n.mesh
	m.mu.Lock()
	defer m.mu.Unlock()
	n.pods++
	p := &Pod{Name: name, Node: n, UID: string(newUID()), IPv4: nth(n.PodCIDRs[0], n.pods+1), IPv6: nth(n.PodCIDRs[1], n.pods+1)}
	o := p.object()
	for _, opt := range options {
		opt(o)
	}
	p.Namespace = o.Namespace
	m.ensureNamespace(o.Namespace)
	m.ensureServiceAccount(o.Namespace, o.Spec.ServiceAccountName)
	if err := p.start(); err != nil {
		return nil, err
	}
	m.put(o)
	m.changed()
	return p, nil
}

func (p *Pod) object() *corev1.Pod {
	o := &corev1.Pod{
		TypeMeta:   metav1.TypeMeta{APIVersion: "v1", Kind: "Pod"},
		ObjectMeta: metav1.ObjectMeta{Name: p.Name, Namespace: "default", UID: newUID(), CreationTimestamp: metav1.Now()},
		Spec: corev1.PodSpec{
			NodeName: p.Node.Name, ServiceAccountName: "default",
			Containers: []corev1.Container{{Name: "app", Image: "app"}},
		},
		Status: corev1.PodStatus{
			Phase:   corev1.PodRunning,
			HostIP:  p.Node.IPv4.String(),
			HostIPs: []corev1.HostIP{{IP: p.Node.IPv4.String()}, {IP: p.Node.IPv6.String()}},
			PodIP:   p.IPv4.String(),
			PodIPs:  []corev1.PodIP{{IP: p.IPv4.String()}, {IP: p.IPv6.String()}},
		},
	}
	o.UID = corev1UID(p.UID)
	setReady(o, true)
	return o
}

// Cgroup is the pod's directory below kubepods; every container has its own below it.
func (p *Pod) Cgroup() string { return filepath.Join(p.Node.Cgroup, "kubepods", "pod"+p.UID) }

// container returns the directory of a container's cgroup, made.
func (p *Pod) container(name string) (string, error) {
	dir := filepath.Join(p.Cgroup(), name)
	return dir, os.MkdirAll(dir, 0o755)
}

// PID is the pause process's, for /proc and nsenter.
func (p *Pod) PID() int { return p.sandbox.pid() }

func (p *Pod) String() string { return p.Namespace + "/" + p.Name }

// start makes the sandbox, its mounts and its link to the node.
func (p *Pod) start() error {
	m := p.Node.mesh
	cgroup, err := p.container("pause")
	if err != nil {
		return err
	}
	if p.hosts, err = m.newHostsFile(p.UID); err != nil {
		return err
	}
	if p.sandbox, err = newSandbox(p.Name, cgroup, m.logPath(p.Node.Name)); err != nil {
		return err
	}
	m.pods = append(m.pods, p) // from here on the mesh closes it
	steps := []request{
		{Op: "hostname", Path: p.Name},
		{Op: "sysctl", Sysctls: podSysctls},
		{Op: "mount", Mount: &mount{Source: p.hosts, Target: "/etc/hosts", Flags: unix.MS_BIND}},
		{Op: "mount", Mount: &mount{Source: m.path("resolv.conf"), Target: "/etc/resolv.conf", Flags: unix.MS_BIND}},
	}
	for _, r := range steps {
		if err := p.sandbox.do(r); err != nil {
			return err
		}
	}
	return p.plug()
}

// plug makes the veth to the node. Every pod is routed by itself, as the CNI plugin ptp does it, so that also two pods
// of one node speak through the node's IP layer, where the service table is.
func (p *Pod) plug() error {
	n := p.Node
	p.veth = fmt.Sprintf("p%d-%.10s", n.pods, p.Name)
	out, err := n.sandbox.links()
	if err != nil {
		return err
	}
	defer out.Close()
	if err := out.veth(p.veth, p.sandbox, 0); err != nil {
		return err
	}
	in, err := p.sandbox.links()
	if err != nil {
		return err
	}
	defer in.Close()
	if _, err := in.up("lo"); err != nil {
		return err
	}
	eth0, err := in.up("eth0")
	if err != nil {
		return err
	}
	host0, err := out.LinkByName(p.veth)
	if err != nil {
		return err
	}
	for i, a := range []netip.Addr{p.IPv4, p.IPv6} {
		gateway := nth(n.PodCIDRs[i], 1)
		if err := out.address(host0, host(gateway)); err != nil {
			return err
		}
		if err := out.route(host0, host(a), netip.Addr{}); err != nil {
			return err
		}
		if err := in.address(eth0, host(a)); err != nil {
			return err
		}
		if err := in.route(eth0, host(gateway), netip.Addr{}); err != nil {
			return err
		}
		if err := in.route(eth0, netip.PrefixFrom(unspecified(a), 0), gateway); err != nil {
			return err
		}
	}
	return nil
}

func unspecified(a netip.Addr) netip.Addr {
	if a.Is4() {
		return netip.IPv4Unspecified()
	}
	return netip.IPv6Unspecified()
}
