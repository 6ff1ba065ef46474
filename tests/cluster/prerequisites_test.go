// SPDX-License-Identifier: Apache-2.0

package cluster

import (
	"errors"
	"io"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/warren-mesh/warren/tests/cluster/machine"
)

// fullHost lacks nothing: neither built yet nor bare of a compiler.
func fullHost() host {
	yes := func(string) bool { return true }
	return host{
		root: func() bool { return true }, program: yes, library: yes, path: yes, filesystem: yes,
		hierarchies: func() ([]machine.Hierarchy, error) {
			return mounted("", "cpu,cpuacct", "memory", "pids", "cpuset", "devices", "freezer"), nil
		},
		built: func(string) (bool, error) { return false, nil },
		watch: func() (io.Closer, error) { return io.NopCloser(nil), nil },
	}
}

// mounted are hierarchies with these controllers; "" is cgroup2.
func mounted(controllers ...string) (all []machine.Hierarchy) {
	for _, c := range controllers {
		all = append(all, machine.Hierarchy{Mount: "/sys/fs/cgroup/" + c, Own: "/", Controllers: c})
	}
	return all
}

func without(name string) func(string) bool {
	return func(n string) bool { return n != name }
}

// unified is a machine that has cgroup2 alone, which hands these controllers on.
func unified(t *testing.T, controllers string) func() ([]machine.Hierarchy, error) {
	t.Helper()
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "cgroup.subtree_control"), []byte(controllers+"\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	return func() ([]machine.Hierarchy, error) { return []machine.Hierarchy{{Mount: dir, Own: "/"}}, nil }
}

func TestPrerequisites(t *testing.T) {
	isBuilt := func(string) (bool, error) { return true, nil }
	lacksProgram := func(name string) func(*host) { return func(h *host) { h.program = without(name) } }
	lacksPath := func(name string) func(*host) { return func(h *host) { h.path = without(name) } }
	lacksKind := func(kind string) func(*host) { return func(h *host) { h.filesystem = without(kind) } }
	has := func(controllers ...string) func(*host) {
		return func(h *host) {
			h.hierarchies = func() ([]machine.Hierarchy, error) { return mounted(controllers...), nil }
		}
	}
	for _, tt := range []struct {
		name string
		lack func(*host)
		want []string // each in the one line of the error: what, and the remedy; none: no error
	}{
		{"nothing", func(*host) {}, nil},
		{"root", func(h *host) { h.root = func() bool { return false } }, []string{"needs root", "sudo"}},
		{"go", lacksProgram("go"), []string{"go is missing", "https://go.dev/dl"}},
		{"ip", lacksProgram("ip"), []string{"ip is missing", "install iproute2"}},
		{"nft", lacksProgram("nft"), []string{"nft is missing", "install nftables"}},
		{"nsenter", lacksProgram("nsenter"), []string{"nsenter is missing", "install util-linux"}},
		{"nice", lacksProgram("nice"), []string{"nice is missing", "install coreutils"}},
		{"mount", lacksProgram("mount"), []string{"mount is missing", "install mount"}},
		{"gcc", lacksProgram("gcc"), []string{"gcc is missing", "apt-get install gcc libc6-dev"}},
		{"gcc, and needs none", func(h *host) { h.program, h.built = without("gcc"), isBuilt }, nil},
		{"pkg-config", lacksProgram("pkg-config"), []string{"pkg-config is missing", "apt-get install pkg-config"}},
		{"pkg-config, and needs none", func(h *host) { h.program, h.built = without("pkg-config"), isBuilt }, nil},
		{"libseccomp, which can be fetched", func(h *host) { h.library = without("libseccomp") }, nil},
		{"libseccomp", func(h *host) { h.library, h.program = without("libseccomp"), without("apt-get") }, []string{"libseccomp is missing", "libseccomp-dev"}},
		{"libseccomp, and needs none", func(h *host) { h.library, h.program, h.built = without("libseccomp"), without("apt-get"), isBuilt }, nil},
		{"a cache", func(h *host) {
			h.built = func(string) (bool, error) { return false, errors.New("no cache (set HOME)") }
		}, []string{"set HOME"}},
		{"cgroup2", has("cpu", "memory", "pids", "cpuset", "devices", "freezer"), []string{"cgroup2 is not mounted", "mount -t cgroup2"}},
		{"memory", has("", "cpu", "pids", "cpuset", "devices", "freezer"), []string{"controller memory is not mounted", "mount -t cgroup -o memory cgroup /sys/fs/cgroup/memory"}},
		{"freezer", has("", "cpu", "memory", "pids", "cpuset", "devices"), []string{"controller freezer is not mounted", "mount -t cgroup -o freezer"}},
		{"cgroup version 1", func(h *host) { h.hierarchies = unified(t, "cpuset cpu io memory pids") }, nil},
		{"memory in cgroup2", func(h *host) { h.hierarchies = unified(t, "cpu pids") }, []string{"hands on cpu, memory, pids", "+memory", "cgroup.subtree_control"}},
		{"cgroups to look at", func(h *host) {
			h.hierarchies = func() ([]machine.Hierarchy, error) { return nil, errors.New("read mounts: no /proc") }
		}, []string{"read mounts: no /proc"}},
		{"overlay", lacksKind("overlay"), []string{"no overlay file system", "modprobe overlay"}},
		{"bpf", lacksKind("bpf"), []string{"no bpf file system", "CONFIG_BPF_SYSCALL"}},
		{"br_netfilter", lacksPath("/proc/sys/net/bridge"), []string{"br_netfilter is not loaded", "modprobe br_netfilter"}},
		{"nf_conntrack", lacksPath("/proc/sys/net/netfilter"), []string{"nf_conntrack is not loaded", "modprobe nf_conntrack"}},
		{"IPv6", lacksPath("/proc/sys/net/ipv6/conf/all"), []string{"IPv6 is off", "ipv6.disable=1"}},
	} {
		t.Run("lacks "+tt.name, func(t *testing.T) {
			h := fullHost()
			tt.lack(&h)
			err := h.prerequisites()
			if tt.want == nil {
				if err != nil {
					t.Error(err)
				}
				return
			}
			if err == nil {
				t.Fatalf("no error, want one with %q", tt.want)
			}
			lines := strings.Split(strings.TrimPrefix(err.Error(), "this machine lacks something:\n"), "\n")
			if len(lines) != 1 {
				t.Errorf("%d things are lacking, want one: %q", len(lines), lines)
			}
			for _, want := range tt.want {
				if !strings.Contains(lines[0], want) {
					t.Errorf("%q does not say %q", lines[0], want)
				}
			}
		})
	}
}

// TestEverythingMissingIsNamed at once, so that one needs not start again for each.
func TestEverythingMissingIsNamed(t *testing.T) {
	no := func(string) bool { return false }
	h := fullHost()
	h.path, h.filesystem = no, no
	h.library = no
	h.program = func(name string) bool { return name == "go" }
	h.hierarchies = func() ([]machine.Hierarchy, error) { return nil, nil }
	err := h.prerequisites()
	if err == nil {
		t.Fatal("no error")
	}
	for _, what := range []string{"ip", "nft", "nsenter", "nice", "mount", "gcc", "pkg-config", "libseccomp", "cgroup2", "controller cpu ", "controller memory",
		"controller pids", "controller cpuset", "controller devices", "controller freezer", "overlay", "bpf", "br_netfilter", "nf_conntrack", "IPv6"} {
		if !strings.Contains(err.Error(), what) {
			t.Errorf("%s is not named in\n%v", what, err)
		}
	}
}

func TestPrerequisitesOfThisMachine(t *testing.T) {
	Privileged(t)
	if err := thisMachine(t.Context()).prerequisites(); err != nil {
		t.Error(err)
	}
}

// instance counts the inotify instances that are held.
type instance struct{ held *int }

func (i instance) Close() error { *i.held--; return nil }

func TestWatchesLeft(t *testing.T) {
	for _, tt := range []struct {
		left int
		want string
	}{
		{watches, ""},
		{watches + 1, ""},
		{watches - 1, "of inotify instances 39 are left, a cluster takes 40: too many open files (end another cluster, or sysctl -w fs.inotify.max_user_instances=512)"},
		{0, "of inotify instances 0 are left, a cluster takes 40: too many open files (end another cluster, or sysctl -w fs.inotify.max_user_instances=512)"},
	} {
		held := 0
		h := host{watch: func() (io.Closer, error) {
			if held == tt.left {
				return nil, syscall.EMFILE
			}
			held++
			return instance{&held}, nil
		}}
		got := ""
		if err := h.watchesLeft(); err != nil {
			got = err.Error()
		}
		if got != tt.want {
			t.Errorf("%d are left: %q, want %q", tt.left, got, tt.want)
		}
		if held != 0 {
			t.Errorf("%d are left: %d were not given back", tt.left, held)
		}
	}
}
