// SPDX-License-Identifier: Apache-2.0

package cluster

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/warren-mesh/warren/tests/cluster/machine"
)

// stopGrace is how long a component has between SIGTERM and SIGKILL.
const stopGrace = 10 * time.Second

// find splits "n1" or "n1/kubelet" into the machine and the service on it.
func (c *Cluster) find(target string) (*machine.Machine, string, error) {
	name, service, _ := strings.Cut(target, "/")
	if name == c.control.Name {
		return c.control, service, nil
	}
	for _, n := range c.nodes {
		if n.Name == name {
			return n.Machine, service, nil
		}
	}
	return nil, "", fmt.Errorf("find %s: the machines are %s, %s", target, c.control.Name, strings.Join(c.Nodes(), ", "))
}

// Signal sends a component ("control/etcd") a signal: SIGSTOP makes it hang until SIGCONT.
func (c *Cluster) Signal(ctx context.Context, target string, sig syscall.Signal) error {
	m, service, err := c.find(target)
	if err == nil && service == "" {
		err = fmt.Errorf("signal %s: want a component", target)
	}
	if err != nil {
		return err
	}
	return m.Signal(ctx, service, sig)
}

// Kill kills a component ("n1/kubelet", "control/kube-apiserver") with SIGKILL, which starts again a second later, or
// switches a whole machine ("n1") off, which stays off until Start.
func (c *Cluster) Kill(ctx context.Context, target string) error {
	m, service, err := c.find(target)
	if err != nil {
		return err
	}
	if service == "" {
		return c.off(ctx, m)
	}
	return m.Signal(ctx, service, syscall.SIGKILL)
}

// Stop ends a component and keeps it down until Start; a machine is switched off as by Kill.
func (c *Cluster) Stop(ctx context.Context, target string) error {
	m, service, err := c.find(target)
	if err != nil {
		return err
	}
	if service == "" {
		return c.off(ctx, m)
	}
	return m.Stop(ctx, service, stopGrace)
}

// off is a power failure.
func (c *Cluster) off(ctx context.Context, m *machine.Machine) error {
	if err := m.Kill(ctx); err != nil {
		return err
	}
	c.unplug(ctx, m)
	return nil
}

// Start starts a component that was stopped, or boots a machine: its disk is as it was, its memory is empty.
func (c *Cluster) Start(ctx context.Context, target string) error {
	m, service, err := c.find(target)
	if err != nil {
		return err
	}
	if service != "" {
		return m.Start(ctx, machine.Service{Name: service})
	}
	if m.PID != 0 {
		return nil
	}
	if m == c.control {
		return c.restartControl(ctx)
	}
	for _, n := range c.nodes {
		if n.Machine == m {
			return errors.Join(c.bootNode(ctx, n), c.networkNodes(ctx))
		}
	}
	return nil
}

// Restart is Stop and Start.
func (c *Cluster) Restart(ctx context.Context, target string) error {
	if err := c.Stop(ctx, target); err != nil {
		return err
	}
	return c.Start(ctx, target)
}

// restartControl boots the control plane; the nodes' cables have to be plugged in again, as the bridge went with it.
func (c *Cluster) restartControl(ctx context.Context) error {
	l, err := net.ListenTCP("tcp", net.TCPAddrFromAddrPort(c.api))
	if err != nil {
		return fmt.Errorf("listen for the API server: %w", err)
	}
	defer l.Close()
	if err := c.bootControl(ctx, l); err != nil {
		return err
	}
	for _, n := range c.nodes {
		if n.PID != 0 {
			if err := c.wireNode(ctx, n); err != nil {
				return err
			}
		}
	}
	if err := c.waitAPI(ctx); err != nil {
		return err
	}
	return errors.Join(c.startControllers(ctx), c.networkNodes(ctx))
}

// NodeShell runs a command on a machine ("n1", "control"), outside of every pod, and returns what it printed.
func (c *Cluster) NodeShell(ctx context.Context, name string, command ...string) (string, error) {
	return c.NodeShellInput(ctx, name, nil, command...)
}

// NodeShellInput is NodeShell with something to read.
func (c *Cluster) NodeShellInput(ctx context.Context, name string, stdin io.Reader, command ...string) (string, error) {
	cmd, err := c.NodeCommand(ctx, name, command...)
	if err != nil {
		return "", err
	}
	var stderr strings.Builder
	cmd.Stdin, cmd.Stderr = stdin, &stderr
	out, err := cmd.Output()
	if err != nil {
		return string(out), fmt.Errorf("run %s on %s: %w: %s", command[0], name, err, strings.TrimSpace(stderr.String()))
	}
	return string(out), nil
}

// NodeCommand prepares a command on a machine; the caller connects its streams and starts it. It runs in the machine's
// leaf cgroup "host".
func (c *Cluster) NodeCommand(ctx context.Context, name string, command ...string) (*exec.Cmd, error) {
	m, service, err := c.find(name)
	if err != nil {
		return nil, err
	}
	if service != "" || m.PID == 0 {
		return nil, fmt.Errorf("run %s on %s: it is no running machine", command[0], name)
	}
	return m.Command(ctx, command...), nil
}

// PID is that of pid 1 of a machine ("n1", "control") as this machine counts: /proc/PID/ns/net is the machine's network,
// /proc/PID/root its files. 0 when it is off.
func (c *Cluster) PID(name string) (int, error) {
	m, service, err := c.find(name)
	if err == nil && service != "" {
		err = fmt.Errorf("find %s: want a machine", name)
	}
	if err != nil {
		return 0, err
	}
	return m.PID, nil
}

// Process is a process of a pod.
type Process struct {
	PID       int    // as this machine counts, so that syscall.Kill reaches it
	Container string // empty for the pod's sandbox
	Command   string // its arguments, joined by spaces
	Cgroup    string // its directory in cgroup2, as this machine sees it
}

// Processes lists what runs in a pod, by the pod's cgroup on its node.
func (c *Cluster) Processes(ctx context.Context, namespace, pod string) ([]Process, error) {
	p, err := c.client.CoreV1().Pods(namespace).Get(ctx, pod, metav1.GetOptions{})
	if err != nil {
		return nil, fmt.Errorf("list processes of %s/%s: %w", namespace, pod, err)
	}
	all, err := c.ProcessesByUID(p.Spec.NodeName, string(p.UID))
	if err != nil {
		return nil, fmt.Errorf("list processes of %s/%s: %w", namespace, pod, err)
	}
	names := map[string]string{}
	for _, s := range slices.Concat(p.Status.ContainerStatuses, p.Status.InitContainerStatuses, p.Status.EphemeralContainerStatuses) {
		_, id, _ := strings.Cut(s.ContainerID, "://")
		names[id] = s.Name
	}
	for i := range all {
		all[i].Container = names[filepath.Base(all[i].Cgroup)]
	}
	return all, nil
}

// ProcessesOn lists what runs in all pods of a node, without the API server, and without names of containers.
func (c *Cluster) ProcessesOn(node string) ([]Process, error) { return c.ProcessesByUID(node, "*") }

// ProcessesByUID lists what runs in a pod, likewise.
func (c *Cluster) ProcessesByUID(node, uid string) ([]Process, error) {
	m, _, err := c.find(node)
	if err != nil {
		return nil, err
	}
	files, err := filepath.Glob(filepath.Join(m.UnifiedCgroup(), "kubepods", "*", "pod"+uid, "*", "cgroup.procs"))
	if err != nil {
		return nil, err
	}
	guaranteed, _ := filepath.Glob(filepath.Join(m.UnifiedCgroup(), "kubepods", "pod"+uid, "*", "cgroup.procs"))
	var all []Process
	for _, f := range append(files, guaranteed...) {
		b, _ := os.ReadFile(f)
		for field := range strings.FieldsSeq(string(b)) {
			pid, err := strconv.Atoi(field)
			if err != nil {
				continue
			}
			args, _ := os.ReadFile("/proc/" + field + "/cmdline")
			all = append(all, Process{PID: pid, Cgroup: filepath.Dir(f),
				Command: strings.TrimRight(strings.ReplaceAll(string(args), "\x00", " "), " ")})
		}
	}
	return all, nil
}
