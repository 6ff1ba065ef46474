// SPDX-License-Identifier: Apache-2.0

package netns

import (
	"fmt"
	"net/netip"
	"os/exec"
	"path/filepath"
	"strings"

	"github.com/warren-mesh/warren/tests/packets"
)

// State describes a running mesh to other processes: enough to look at it and to run commands in it.
type State struct {
	Owner     string // "pid-starttime" of the process that holds it
	Purpose   string `json:",omitempty"` // what its owner says it is for
	Wire      int    // pid of the process in the network namespace between the nodes
	Manifests string
	Logs      string
	Nodes     []Member
	Pods      []Member
}

// Member is a node or a pod.
type Member struct {
	Namespace  string `json:",omitempty"` // of a pod
	Name       string
	Node       string
	PID        int    // of the process whose namespaces it is
	Cgroup     string // where commands run
	IPv4, IPv6 netip.Addr
	UID        string `json:",omitempty"` // of a pod
}

// State describes the mesh as it is now.
func (m *Mesh) State() State {
	m.settle()
	s := State{Owner: m.run[:strings.LastIndexByte(m.run, '-')], Wire: m.wire.pid(), Manifests: m.Manifests(), Logs: m.Logs()}
	for _, n := range m.Nodes() {
		s.Nodes = append(s.Nodes, Member{Name: n.Name, Node: n.Name, PID: n.sandbox.pid(), Cgroup: filepath.Join(n.Cgroup, "kubelet"), IPv4: n.IPv4, IPv6: n.IPv6})
	}
	for _, p := range m.Pods() {
		s.Pods = append(s.Pods, Member{
			Namespace: p.Namespace, Name: p.Name, Node: p.Node.Name, PID: p.PID(), Cgroup: filepath.Join(p.Cgroup(), "pause"),
			UID: p.UID, IPv4: p.IPv4, IPv6: p.IPv6,
		})
	}
	return s
}

// Alive says whether the process that holds the mesh still runs.
func (s State) Alive() bool { return s.Owner != "" && !orphaned("warren-"+s.Owner+"-0") }

// Find returns the pod called NAME or NAMESPACE/NAME, or the node called node/NAME.
func (s State) Find(name string) (Member, error) {
	var known []string
	for _, n := range s.Nodes {
		if name == "node/"+n.Name {
			return n, nil
		}
		known = append(known, "node/"+n.Name)
	}
	for _, p := range s.Pods {
		if full := p.Namespace + "/" + p.Name; name == full || name == p.Name {
			return p, nil
		}
		known = append(known, p.Namespace+"/"+p.Name)
	}
	return Member{}, fmt.Errorf("no pod or node %q (there are %s)", name, strings.Join(known, ", "))
}

// Start starts the command there: network, mounts, hostname and cgroup.
func (m Member) Start(cmd *exec.Cmd) error {
	return place{net: m.PID, mnt: m.PID, cgroup: m.Cgroup}.start(cmd)
}

// Captured is what the pod's node has published about it: "true", a reason word, or "" when nothing.
func (s State) Captured(pod Member) string {
	return captured(s.Manifests, pod.Namespace, pod.Name, pod.UID)
}

// Capture records the wire of a mesh that another process holds, until Stop.
func (s State) Capture() (*packets.Capture, error) {
	return packets.In(fmt.Sprintf("/proc/%d/ns/net", s.Wire))
}
