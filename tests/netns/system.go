// SPDX-License-Identifier: Apache-2.0

package netns

import (
	"crypto/rand"
	"fmt"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"
	corev1 "k8s.io/api/core/v1"

	"github.com/warren-mesh/warren/mesh/manifests"
)

const (
	// systemNamespace is Warren's own, and the root namespace of mesh-wide policy.
	systemNamespace = "warren-system"

	warrenID  = 65532 // user and group of ztunnel; supplementary group of broker and agent
	controlID = 65533 // user and group of control
	caPort    = 15012

	// stateDir is the agent's in a node's mount namespace; it ends with the node.
	stateDir = "/run/warren-state"
)

// System is Warren on one node.
type System struct {
	Broker, Agent, Ztunnel *Process
}

// brokerPrivileges are the node pod's: see the table of parts in the architecture.
var brokerPrivileges = privileges{
	Groups:       []int{warrenID},
	Capabilities: []uintptr{unix.CAP_BPF, unix.CAP_NET_ADMIN, unix.CAP_SYS_ADMIN, unix.CAP_SYS_PTRACE, unix.CAP_KILL},
}

var (
	agentPrivileges   = privileges{Groups: []int{warrenID}, NoNewPrivs: true}
	ztunnelPrivileges = privileges{UID: warrenID, GID: warrenID, NoNewPrivs: true}
	controlPrivileges = privileges{UID: controlID, GID: controlID, NoNewPrivs: true}
)

// Control is the certificate authority's process; nil before Up.
func (m *Mesh) Control() *Process { return m.control }

// deployControl starts the authority on the mesh's first node, and makes its service.
func (m *Mesh) deployControl() error {
	ca := m.path("ca")
	if err := os.MkdirAll(ca, 0o700); err != nil {
		return err
	}
	for _, dir := range []string{ca, m.path("tokens")} {
		if err := os.Chown(dir, controlID, controlID); err != nil {
			return err
		}
		if err := os.Chmod(dir, 0o700); err != nil {
			return err
		}
	}
	m.Service("warren-control", systemNamespace, map[string]string{"app": "warren-control"}, TCP(caPort, caPort))
	pod, err := m.nodes[0].newPod("warren-control", []PodOption{In(systemNamespace), ServiceAccount("warren-control"), Labels("app", "warren-control")})
	if err != nil {
		return err
	}
	m.control, err = pod.newProcess("warren-control", "control", controlPrivileges, append([]string{
		"--manifests", m.Manifests(), "--ca-dir", ca, "--node-tokens", m.path("tokens"),
	}, m.options.ControlFlags...)...)
	if err != nil {
		return err
	}
	return m.control.Start()
}

// deploy starts broker, agent and ztunnel on a node.
func (n *Node) deploy() error {
	m := n.mesh
	token, err := n.token()
	if err != nil {
		return err
	}
	pod, err := n.newPod("warren-node-"+n.Name, []PodOption{In(systemNamespace), ServiceAccount("warren-node")})
	if err != nil {
		return err
	}
	n.System.Broker, err = pod.newProcess("warren-broker", "broker", brokerPrivileges, append([]string{
		"--host-netns", n.HostNetns(), "--cgroup-root", n.Cgroup, "--kubelet-cgroup", filepath.Join(n.Cgroup, "kubelet"),
		"--file", "token=" + token, "--file", "roots=" + manifests.BundlePath(m.Manifests()), "--file", "crl=" + manifests.RevokedPath(m.Manifests()),
	}, m.options.BrokerFlags...)...)
	if err != nil {
		return err
	}
	n.System.Agent, err = pod.newProcess("warren-agent", "agent", agentPrivileges, append([]string{
		"--node", n.Name, "--manifests", m.Manifests(), "--state-dir", stateDir,
	}, m.options.AgentFlags...)...)
	if err != nil {
		return err
	}
	zpod, err := n.newPod("warren-ztunnel-"+n.Name, []PodOption{In(systemNamespace), ServiceAccount("warren-ztunnel"), Labels("app", "warren-ztunnel")})
	if err != nil {
		return err
	}
	flags := []string{"--node", n.Name, "--ca-service", systemNamespace + "/warren-control"}
	if m.options.Unsealed {
		flags = append(flags, "--seal=false")
	}
	n.System.Ztunnel, err = zpod.newProcess("warren-ztunnel", "ztunnel", ztunnelPrivileges, append(flags, m.options.ZtunnelFlags...)...)
	if err != nil {
		return err
	}
	for _, p := range n.System.processes() {
		if err := p.Start(); err != nil {
			return err
		}
	}
	return nil
}

func (s *System) processes() []*Process { return []*Process{s.Broker, s.Agent, s.Ztunnel} }

// token writes the node's proof, once for the broker and once for control, and returns the broker's file.
func (n *Node) token() (string, error) {
	text := []byte(rand.Text() + rand.Text())
	theirs := n.mesh.path("tokens/" + n.Name)
	if err := os.WriteFile(theirs, text, 0o600); err != nil {
		return "", err
	}
	if err := os.Chown(theirs, controlID, controlID); err != nil {
		return "", err
	}
	ours := n.mesh.path("token-" + n.Name)
	return ours, os.WriteFile(ours, text, 0o600)
}

// Token is the node's proof towards control, for tests that play a node.
func (n *Node) Token() string {
	b, _ := os.ReadFile(n.mesh.path("token-" + n.Name))
	return string(b)
}

// checkBinaries names the binaries that are not there.
func checkBinaries(dir string) error {
	for _, b := range []string{"warren-broker", "warren-agent", "warren-ztunnel", "warren-control", "warren-cni", "warren-supervise"} {
		if _, err := os.Stat(filepath.Join(dir, b)); err != nil {
			return fmt.Errorf("no %s (run make build): %w", b, err)
		}
	}
	return nil
}

// enrolled says whether the objects want the pod captured, as far as tests of this package write such objects.
func (m *Mesh) enrolled(p *Pod) bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	s, ok := m.objects[key{"Pod", p.Namespace, p.Name}]
	ns, _ := m.objects[key{"Namespace", "", p.Namespace}].typed.(*corev1.Namespace)
	if !ok || ns == nil || p.Namespace == systemNamespace {
		return false
	}
	o := s.typed.(*corev1.Pod)
	for _, labels := range []map[string]string{o.Labels, o.Annotations, ns.Labels, ns.Annotations} {
		if v := labels["warren.dev/mesh"]; v != "" {
			return v == "enabled"
		}
	}
	return false
}
