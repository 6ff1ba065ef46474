// SPDX-License-Identifier: Apache-2.0

package netns

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"time"
)

// T is what a mesh needs of a test; *testing.T has it, and the command brings its own.
type T interface {
	Helper()
	Name() string
	Logf(format string, args ...any)
	Errorf(format string, args ...any)
	Fatalf(format string, args ...any)
	Failed() bool
	Cleanup(func())
}

// Options of a mesh. The zero value is good.
type Options struct {
	// AgentFlags, ZtunnelFlags, BrokerFlags and ControlFlags are added to the binaries' own.
	AgentFlags, ZtunnelFlags, BrokerFlags, ControlFlags []string
	// ReadyWithin bounds Up. Default 20 s.
	ReadyWithin time.Duration
	// Sealed runs ztunnel under its seccomp filter; default true.
	Unsealed bool
	// Binaries is a directory of Warren's binaries, taken as they are. Default: what Binaries builds.
	Binaries string
}

// Mesh is one or more nodes on a wire, the directory of objects that describes them, and Warren's processes once Up
// was called. Safe for concurrent use.
type Mesh struct {
	t       T
	options Options
	run     string // unique among everything that runs on this machine
	dir     string // state: manifests, logs, hosts, tokens
	bin     string // Warren's binaries
	cgroup  string
	wire    *wire
	before  traces // what the host looked like

	mu      sync.Mutex
	nodes   []*Node
	pods    []*Pod
	objects map[key]stored
	next    int // number of the next ClusterIP
	dirty   bool
	up      bool
	control *Process
	down    bool
}

var meshes atomic.Int32 // made by this process so far

// New makes an empty mesh, and takes it down again when the test ends; what is left then fails the test.
func New(t T, o Options) *Mesh {
	t.Helper()
	if o.ReadyWithin == 0 {
		o.ReadyWithin = 20 * time.Second
	}
	m := &Mesh{t: t, options: o, objects: map[key]stored{}, next: 1}
	if err := m.build(); err != nil {
		m.Down()
		t.Fatalf("make mesh: %v", err)
	}
	t.Cleanup(m.Down)
	return m
}

func (m *Mesh) build() error {
	mount, err := cgroupMount()
	if err != nil {
		return err
	}
	m.run = fmt.Sprintf("%s-%d", owner(os.Getpid()), meshes.Add(1))
	m.dir, m.cgroup = filepath.Join(os.TempDir(), "warren-"+m.run), filepath.Join(mount, "warren-"+m.run)
	m.before = lookForTraces()
	if m.bin, err = m.options.binDirectory(); err != nil {
		return err
	}
	for _, d := range []string{"", "manifests", "manifests/status", "logs", "hosts", "tokens"} {
		if err := os.MkdirAll(filepath.Join(m.dir, d), 0o755); err != nil {
			return err
		}
	}
	// Agents (root without capabilities) and control (another user) both publish there.
	if err := os.Chmod(m.path("manifests/status"), 0o777); err != nil {
		return err
	}
	// An empty resolv.conf: names outside the hosts file fail at once instead of after a timeout.
	if err := os.WriteFile(m.path("resolv.conf"), nil, 0o644); err != nil {
		return err
	}
	if err := os.MkdirAll(filepath.Join(m.cgroup, "wire"), 0o755); err != nil {
		return err
	}
	if m.wire, err = newWire(filepath.Join(m.cgroup, "wire"), m.logPath("wire")); err != nil {
		return err
	}
	m.put(serviceCIDR())
	m.ensureNamespace("default")
	return nil
}

func (m *Mesh) path(name string) string { return filepath.Join(m.dir, name) }

func (m *Mesh) logPath(name string) string { return m.path("logs/" + name + ".log") }

// Manifests is the directory of objects that the agents and control watch.
func (m *Mesh) Manifests() string { return m.path("manifests") }

// Logs is the directory with one file for each process.
func (m *Mesh) Logs() string { return m.path("logs") }

// Nodes returns the nodes made so far.
func (m *Mesh) Nodes() []*Node {
	m.mu.Lock()
	defer m.mu.Unlock()
	return append([]*Node(nil), m.nodes...)
}

// Pods returns the pods that run, Warren's own included.
func (m *Mesh) Pods() []*Pod {
	m.mu.Lock()
	defer m.mu.Unlock()
	return append([]*Pod(nil), m.pods...)
}

// Find returns the running pod called namespace/name, or only name when that is unique enough; nil when there is none.
func (m *Mesh) Find(name string) *Pod {
	for _, p := range m.Pods() {
		if p.String() == name || p.Name == name {
			return p
		}
	}
	return nil
}

// changed notes that the service tables and hosts files no longer fit the objects. While Warren runs they follow at
// once; before that they wait until someone dials, so that building a mesh of many pods stays fast.
func (m *Mesh) changed() {
	m.dirty = true
	if m.up {
		m.settleLocked()
	}
}

func (m *Mesh) settle() {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.settleLocked()
}

func (m *Mesh) settleLocked() {
	if !m.dirty || m.down {
		return
	}
	m.dirty = false
	if err := m.writeHosts(); err != nil {
		m.t.Errorf("write hosts files: %v", err)
	}
	if err := m.writeServiceTables(); err != nil {
		m.t.Errorf("write service tables: %v", err)
	}
}

// Delete stops a pod: its object goes, its processes are killed, and with its last socket its network.
func (p *Pod) Delete() {
	m := p.Node.mesh
	m.t.Helper()
	m.mu.Lock()
	defer m.mu.Unlock()
	if p.deleted {
		return
	}
	p.deleted = true
	m.drop(key{"Pod", p.Namespace, p.Name})
	kept := m.pods[:0]
	for _, other := range m.pods {
		if other != p {
			kept = append(kept, other)
		}
	}
	m.pods = kept
	m.changed()
	if err := p.stop(); err != nil {
		m.t.Errorf("delete pod %s: %v", p, err)
	}
}

// stop kills the pod's processes and closes what this process holds of it.
func (p *Pod) stop() error {
	p.holds.close()
	err := killCgroup(p.Cgroup(), 5*time.Second)
	p.sandbox.close()
	if err != nil {
		return err
	}
	return removeCgroup(p.Cgroup())
}

// Inspect returns how to look at the mesh from outside: whole command lines.
func (m *Mesh) Inspect() string {
	var b strings.Builder
	for _, n := range m.Nodes() {
		fmt.Fprintf(&b, "node %-18s nsenter -t %d -n -m -u -- bash\n", n.Name, n.sandbox.pid())
	}
	for _, p := range m.Pods() {
		fmt.Fprintf(&b, "pod %-19s nsenter -t %d -n -m -u -- bash    # %s %s on %s\n", p, p.PID(), p.IPv4, p.IPv6, p.Node.Name)
	}
	if m.wire != nil {
		fmt.Fprintf(&b, "wire                    nsenter -t %d -n -- tcpdump -ni any tcp\n", m.wire.pid())
	}
	fmt.Fprintf(&b, "objects %s, logs %s\n", m.Manifests(), m.Logs())
	return b.String()
}
