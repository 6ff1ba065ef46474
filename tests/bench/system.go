// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"github.com/warren-mesh/warren/tests/netns"
)

// Names of systems that are not Warren; those that are, are its variants.
const (
	none    = "none"    // pods outside the mesh, direct
	haproxy = "haproxy" // two relays, mTLS between them; near: one, in plain TCP mode
)

func systemNames() []string {
	names := []string{none, haproxy}
	for _, v := range variants {
		names = append(names, v.name)
	}
	return names
}

// serverPort is where the answering application listens.
const serverPort = 8080

// system is one way from a client pod on node a to a server pod on node b, or on a as well.
type system struct {
	name           string
	near           bool // both on node a
	mesh           *netns.Mesh
	client, server *netns.Pod
	target         string  // what the client dials
	groups         []group // whose CPU counts; none for no mesh
	ends           []int   // the processes at both ends of the tunnel, whose memory counts per connection
	idle           []int   // the processes of one node, whose memory counts idle
}

// newSystem makes the pods; those of a variant of Warren are captured once the mesh is up.
func newSystem(m *netns.Mesh, name string, near bool) *system {
	namespace, pods, node := outside, name, "b"
	if near {
		pods, node = name+"-near", "a"
	}
	if variantIndex(name) >= 0 {
		namespace = inside
	}
	s := &system{
		name: name, near: near, mesh: m,
		client: m.Node("a").Pod(pods+"-client", netns.In(namespace), netns.ServiceAccount("client")),
		server: m.Node(node).Pod(pods+"-server", netns.In(namespace), netns.ServiceAccount("server"), netns.Labels("app", "server")),
	}
	s.target = s.server.Addr("tcp4", serverPort).String()
	return s
}

// start starts the answering application and, for haproxy, the relays.
func (s *system) start(ctx context.Context, dir string) error {
	if _, err := startWorker(ctx, s.server, roleServe, fmt.Sprintf(":%d", serverPort)); err != nil {
		return err
	}
	switch {
	case s.name == haproxy:
		return s.startRelays(ctx, dir)
	case variantIndex(s.name) >= 0:
		return s.findWarren()
	}
	return nil
}

// findWarren lists what counts as Warren: every process in the containers of its pods, the supervisors and the
// authority included.
func (s *system) findWarren() error {
	for _, container := range []string{"ztunnel", "broker", "agent", "control"} {
		g := group{name: container}
		for _, p := range s.mesh.Pods() {
			if p.Namespace != "warren-system" {
				continue
			}
			pids, err := containerProcesses(filepath.Join(p.Cgroup(), container))
			if err != nil {
				return err
			}
			g.pids = append(g.pids, pids...)
			if p.Node.Name == "a" && container != "control" {
				s.idle = append(s.idle, pids...)
			}
		}
		if len(g.pids) == 0 {
			return fmt.Errorf("no process of Warren's %s runs", container)
		}
		s.groups = append(s.groups, g)
	}
	for _, n := range s.mesh.Nodes() {
		if s.near && n != s.client.Node {
			continue
		}
		s.ends = append(s.ends, n.System.Ztunnel.Child())
	}
	if slices.Contains(s.ends, 0) {
		return fmt.Errorf("a ztunnel has no child")
	}
	return nil
}

// containerProcesses reads a container's processes; there are none where there is no such container.
func containerProcesses(cgroup string) ([]int, error) {
	b, err := os.ReadFile(filepath.Join(cgroup, "cgroup.procs"))
	if os.IsNotExist(err) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	var out []int
	for _, word := range strings.Fields(string(b)) {
		pid, err := strconv.Atoi(word)
		if err != nil {
			return nil, err
		}
		out = append(out, pid)
	}
	return out, nil
}
