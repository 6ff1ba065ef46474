// SPDX-License-Identifier: Apache-2.0

// Package cluster starts a real Kubernetes cluster on this machine from Go modules: a control plane and nodes with
// kubelet, containerd and a CNI chain, each on a machine of its own (package machine) that is made of namespaces. It
// needs root and no container registry, and leaves nothing behind.
package cluster

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"time"

	"github.com/warren-mesh/warren/tests/cluster/machine"
)

// Cluster is a running cluster. Its methods are safe for concurrent use, but for those that start and stop machines.
type Cluster struct {
	*API
	options Options
	dir     string
	tools   tools
	report  *report
	control *machine.Machine
	nodes   []*node
	api     netip.AddrPort // of the API server on this machine
}

// state is what another process needs to find the cluster again.
type state struct {
	Tools tools          `json:"tools"`
	Nodes int            `json:"nodes"`
	API   netip.AddrPort `json:"api"`
}

// Up starts a cluster and returns when its nodes are ready and DNS answers. What an earlier one of the same name left is
// removed first. When it fails, logs stay until the next Up or Down.
func Up(ctx context.Context, o Options) (*Cluster, error) {
	o = o.withDefaults()
	if err := o.validate(); err != nil {
		return nil, fmt.Errorf("start cluster: %w", err)
	}
	r := newReport(o.Output)
	this := thisMachine(ctx)
	if err := this.prerequisites(); err != nil {
		return nil, fmt.Errorf("start cluster: %w", err)
	}
	t, err := build(ctx, r)
	if err != nil {
		return nil, err
	}
	unlock, err := lockState(ctx, o.Name)
	if err != nil {
		return nil, err
	}
	defer unlock()
	if o.Reuse {
		if c, err := Open(o); err == nil && c.runs(ctx) {
			r.note("cluster %s runs already", o.Name)
			return c, nil
		}
	}
	if err := sweep(o.Name); err != nil {
		return nil, err
	}
	if err := this.watchesLeft(); err != nil {
		return nil, fmt.Errorf("start cluster: %w", err)
	}
	c, err := create(o, t, r)
	if err != nil {
		return nil, errors.Join(err, sweep(o.Name))
	}
	ctx, cancel := context.WithTimeout(ctx, 5*time.Minute)
	defer cancel()
	if err := c.start(ctx); err != nil {
		dirs, _ := machine.FindCgroups(cgroupPrefix(o.Name))
		return nil, errors.Join(fmt.Errorf("%w (logs: %s)", err, c.dir), machine.RemoveCgroups(dirs, 20*time.Second))
	}
	return c, nil
}

// create makes the cluster's directory, certificates and machines; none of them runs yet.
func create(o Options, t tools, r *report) (*Cluster, error) {
	dir, err := stateDir(o.Name)
	if err != nil {
		return nil, err
	}
	c := &Cluster{options: o, dir: dir, tools: t, report: r}
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return nil, fmt.Errorf("create state directory: %w", err)
	}
	s := c.spec("control")
	s.Forwards = []string{loopbackAPITarget}
	if c.control, err = machine.Create(t.path("machine", "warren-testmachine"), c.cgroup("control"), s); err != nil {
		return nil, err
	}
	for i := 1; i <= o.Nodes; i++ {
		n, err := c.createNode(i)
		if err != nil {
			return nil, err
		}
		c.nodes = append(c.nodes, n)
	}
	return c, nil
}

// start boots everything side by side, as far as one thing doesn't need the other.
func (c *Cluster) start(ctx context.Context) error {
	l, err := net.ListenTCP("tcp", &net.TCPAddr{IP: net.IPv4(127, 0, 0, 1)})
	if err != nil {
		return fmt.Errorf("listen for the API server: %w", err)
	}
	defer l.Close()
	c.api = l.Addr().(*net.TCPAddr).AddrPort()
	if err := errors.Join(c.makePKI(c.api), c.save(), c.connect()); err != nil {
		return err
	}
	if err := c.bootControl(ctx, l); err != nil {
		return err
	}
	c.report.note("control plane's machine is up")
	// A node that fails ends the wait for the API server.
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	var wait sync.WaitGroup
	errs := make([]error, len(c.nodes))
	for i, n := range c.nodes {
		wait.Go(func() {
			if errs[i] = c.bootNode(ctx, n); errs[i] != nil {
				cancel()
			}
		})
	}
	apiErr := c.waitAPI(ctx)
	if apiErr == nil {
		c.report.note("API server is ready")
		apiErr = c.startControllers(ctx)
	}
	wait.Wait()
	if err := errors.Join(append(errs, apiErr)...); err != nil {
		return err
	}
	c.report.note("containerd runs on every node")
	images := make(chan error, 1)
	go func() { images <- c.loadSystemImages(ctx) }()
	if err := errors.Join(c.installCRDs(ctx), <-images); err != nil {
		return err
	}
	c.report.note("images and custom resources are there")
	if err := c.networkNodes(ctx); err != nil {
		return err
	}
	if err := c.installDNS(ctx); err != nil {
		return err
	}
	return c.check(ctx)
}

// check waits until nodes are ready, DNS answers and a pod could start in the default namespace.
func (c *Cluster) check(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, 2*time.Minute)
	defer cancel()
	for _, n := range c.nodes {
		if err := c.Wait(ctx, "", "nodes/"+n.Name, Condition("Ready")); err != nil {
			return err
		}
	}
	c.report.note("nodes are ready")
	if err := c.Wait(ctx, "kube-system", "deployments/coredns", RolledOut()); err != nil {
		return err
	}
	if err := c.Wait(ctx, "default", "serviceaccounts/default", Exists()); err != nil {
		return err
	}
	c.report.note("cluster is up")
	return nil
}

// runs says whether every machine is on with nothing stopped, and the cluster ready, now or shortly.
func (c *Cluster) runs(ctx context.Context) bool {
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	for _, m := range c.machines() {
		services, err := m.Services(ctx)
		if err != nil || slices.ContainsFunc(services, func(s machine.Status) bool { return !s.Wanted }) {
			return false
		}
	}
	return c.check(ctx) == nil
}

// machines are the control plane's and the nodes'.
func (c *Cluster) machines() []*machine.Machine {
	all := []*machine.Machine{c.control}
	for _, n := range c.nodes {
		all = append(all, n.Machine)
	}
	return all
}

// Open finds the running cluster of that name.
func Open(o Options) (*Cluster, error) {
	o = o.withDefaults()
	dir, err := stateDir(o.Name)
	if err != nil {
		return nil, err
	}
	b, err := os.ReadFile(filepath.Join(dir, "state.json"))
	if err != nil {
		if errors.Is(err, fs.ErrNotExist) {
			return nil, fmt.Errorf("find cluster %s: it does not run (start it: warren-testcluster up): %w", o.Name, err)
		}
		return nil, fmt.Errorf("find cluster %s: %w", o.Name, err)
	}
	var s state
	if err := json.Unmarshal(b, &s); err != nil {
		return nil, fmt.Errorf("find cluster %s: %w", o.Name, err)
	}
	o.Nodes = s.Nodes
	c := &Cluster{options: o, dir: dir, tools: s.Tools, api: s.API, report: newReport(o.Output)}
	program := c.tools.path("machine", "warren-testmachine")
	if c.control, err = machine.Open(program, filepath.Join(dir, "control")); err != nil {
		return nil, err
	}
	for i := 1; i <= s.Nodes; i++ {
		m, err := machine.Open(program, filepath.Join(dir, fmt.Sprintf("n%d", i)))
		if err != nil {
			return nil, err
		}
		c.nodes = append(c.nodes, &node{Machine: m, number: i})
	}
	return c, c.connect()
}

func (c *Cluster) save() error {
	b, err := json.MarshalIndent(state{Tools: c.tools, Nodes: c.options.Nodes, API: c.api}, "", "  ")
	if err != nil {
		return fmt.Errorf("save state: %w", err)
	}
	if err := os.WriteFile(filepath.Join(c.dir, "state.json"), b, 0o644); err != nil {
		return fmt.Errorf("save state: %w", err)
	}
	return nil
}

func cgroupPrefix(name string) string { return "warren-testcluster." + name + "." }

func (c *Cluster) cgroup(machine string) string { return cgroupPrefix(c.options.Name) + machine }
func (c *Cluster) pki(file string) string       { return filepath.Join(c.dir, "pki", file) }
func (c *Cluster) kube(args ...string) []string {
	return append([]string{c.tools.path("kube", "kube")}, args...)
}
func (c *Cluster) log(m *machine.Machine, service string) string {
	return filepath.Join(m.Dir, "log", service+".log")
}

// spec is what all machines of the cluster have in common.
func (c *Cluster) spec(name string) machine.Spec {
	cache := filepath.Dir(filepath.Dir(c.tools["kube"]))
	pki := c.pki("")
	return machine.Spec{Name: name, Dir: filepath.Join(c.dir, name), Sysctls: machineSysctls, Masked: kernelSysctls,
		Binds: []machine.Bind{{From: filepath.Join(cache, "bin"), To: filepath.Join(cache, "bin")}, {From: pki, To: pki}}}
}
