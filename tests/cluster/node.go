// SPDX-License-Identifier: Apache-2.0

package cluster

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"github.com/warren-mesh/warren/tests/cluster/machine"
)

// node is one Kubernetes node: a machine with containerd, kubelet and kube-proxy.
type node struct {
	*machine.Machine
	number   int // from 1
	podCIDRs []netip.Prefix
}

const pauseRef, corednsRef = "registry.k8s.io/pause:3.10.1", "registry.k8s.io/coredns/coredns:" + corednsVersion

// nodeBinds are directories of the node that may not lie on an overlay, or that get mounts of their own.
var nodeBinds = []string{"/var/lib/containerd", "/var/lib/kubelet"}

// ownDirs are empty on a new node, whatever this machine has there.
var ownDirs = []string{"/etc/cni", "/etc/containerd", "/etc/kubernetes", "/opt/cni", "/var/lib/cni", "/var/lib/warren",
	"/var/log/pods", "/var/log/containers", "/usr/libexec/kubernetes"}

// createNode lays out a node's files and cgroups.
func (c *Cluster) createNode(number int) (*node, error) {
	name := fmt.Sprintf("n%d", number)
	s := c.spec(name)
	for _, dir := range nodeBinds {
		from := filepath.Join(s.Dir, "data", filepath.Base(dir))
		if err := os.MkdirAll(from, 0o711); err != nil {
			return nil, fmt.Errorf("create node %s: %w", name, err)
		}
		s.Binds = append(s.Binds, machine.Bind{From: from, To: dir})
	}
	for _, dir := range append(ownDirs, nodeBinds...) {
		at := s.Upper(dir)
		if err := os.MkdirAll(at, 0o755); err != nil {
			return nil, fmt.Errorf("create node %s: %w", name, err)
		}
		// Opaque: the overlay doesn't show what lies at this place below it.
		if err := syscall.Setxattr(at, "trusted.overlay.opaque", []byte("y"), 0); err != nil {
			return nil, fmt.Errorf("create node %s: hide this machine's %s: %w", name, dir, err)
		}
	}
	plugins, err := os.ReadDir(c.tools["cni"])
	if err != nil {
		return nil, fmt.Errorf("create node %s: %w", name, err)
	}
	for _, p := range plugins {
		if err := copyFile(c.tools.path("cni", p.Name()), s.Upper("/opt/cni/bin/"+p.Name()), 0o755); err != nil {
			return nil, fmt.Errorf("create node %s: %w", name, err)
		}
	}
	kubelet, err := json.MarshalIndent(c.kubeletConfig(name, number), "", "  ")
	if err != nil {
		return nil, fmt.Errorf("write kubelet configuration: %w", err)
	}
	files := map[string]string{
		"/etc/containerd/config.toml":         containerdConfig(c.tools.path("runc", "runc")),
		"/etc/kubernetes/kubelet.yaml":        string(kubelet),
		"/etc/kubernetes/resolv.conf":         "", // nothing outside the cluster can be resolved
		staticPods + "/.empty":                "",
		"/etc/machine-id":                     fmt.Sprintf("%032x\n", number),
		"/var/lib/warren-testcluster/version": KubernetesVersion + "\n",
	}
	for path, content := range files {
		if err := os.MkdirAll(filepath.Dir(s.Upper(path)), 0o755); err != nil {
			return nil, fmt.Errorf("create node %s: %w", name, err)
		}
		if err := os.WriteFile(s.Upper(path), []byte(content), 0o644); err != nil {
			return nil, fmt.Errorf("create node %s: %w", name, err)
		}
	}
	m, err := machine.Create(c.tools.path("machine", "warren-testmachine"), c.cgroup(name), s)
	if err != nil {
		return nil, err
	}
	return &node{Machine: m, number: number}, nil
}

// staticPods is the directory whose pods the kubelet runs without being told by the API server.
const staticPods = "/etc/kubernetes/manifests"

func copyFile(from, to string, mode os.FileMode) error {
	if err := os.MkdirAll(filepath.Dir(to), 0o755); err != nil {
		return err
	}
	in, err := os.Open(from)
	if err != nil {
		return err
	}
	defer in.Close()
	out, err := os.OpenFile(to, os.O_CREATE|os.O_TRUNC|os.O_WRONLY, mode)
	if err != nil {
		return err
	}
	if _, err := io.Copy(out, in); err != nil {
		_ = out.Close()
		return err
	}
	return out.Close()
}

// bootNode starts the node's machine and its containerd, and loads the images every node needs.
func (c *Cluster) bootNode(ctx context.Context, n *node) error {
	if err := n.Boot(ctx); err != nil {
		return err
	}
	if err := c.wireNode(ctx, n); err != nil {
		return err
	}
	path := strings.Join([]string{c.tools["containerd"], c.tools["runc"], "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"}, ":")
	err := n.Start(ctx, machine.Service{Name: "containerd", Env: []string{"PATH=" + path},
		Args: []string{c.tools.path("containerd", "containerd"), "--config", "/etc/containerd/config.toml"}})
	if err != nil {
		return err
	}
	for {
		if _, err = n.Run(ctx, nil, c.tools.path("containerd", "ctr"), "version"); err == nil {
			break
		}
		if ctx.Err() != nil {
			return fmt.Errorf("wait for containerd on %s: %w", n.Name, err)
		}
		time.Sleep(50 * time.Millisecond)
	}
	if err := n.Start(ctx, c.kubelet(n)); err != nil {
		return err
	}
	if err := n.Start(ctx, c.proxy(n)); err != nil {
		return err
	}
	return nil
}

func (c *Cluster) kubelet(n *node) machine.Service {
	v4, v6 := nodeAddresses(n.number)
	return machine.Service{Name: "kubelet", Args: c.kube("kubelet", "--config=/etc/kubernetes/kubelet.yaml",
		"--kubeconfig="+c.pki(n.Name+".kubeconfig"), "--hostname-override="+n.Name, fmt.Sprintf("--node-ip=%s,%s", v4, v6), "--v=2")}
}

func (c *Cluster) proxy(n *node) machine.Service {
	return machine.Service{Name: "kube-proxy", Args: c.kube("kube-proxy", "--kubeconfig="+c.pki("proxy.kubeconfig"),
		"--hostname-override="+n.Name, "--proxy-mode=nftables", "--cluster-cidr="+podCIDRs,
		// These sysctls belong to the whole machine.
		"--conntrack-max-per-core=0", "--conntrack-tcp-timeout-established=0s", "--conntrack-tcp-timeout-close-wait=0s",
		"--oom-score-adj=0", "--metrics-bind-address=127.0.0.1:10249")}
}

// kubeletConfig is a KubeletConfiguration; only what differs from the defaults.
func (c *Cluster) kubeletConfig(name string, number int) map[string]any {
	v4, _ := nodeAddresses(number)
	return map[string]any{
		"apiVersion": "kubelet.config.k8s.io/v1beta1", "kind": "KubeletConfiguration",
		"address": v4.String(), "healthzBindAddress": loopback4.String(),
		"authentication": map[string]any{
			"anonymous": map[string]any{"enabled": false},
			"webhook":   map[string]any{"enabled": true},
			"x509":      map[string]any{"clientCAFile": c.pki("ca.crt")},
		},
		"authorization": map[string]any{"mode": "Webhook"},
		"tlsCertFile":   c.pki(name + ".crt"), "tlsPrivateKeyFile": c.pki(name + ".key"),
		"clusterDomain": clusterDomain, "clusterDNS": []string{dns4.String(), dns6.String()},
		"resolvConf":               "/etc/kubernetes/resolv.conf",
		"containerRuntimeEndpoint": "unix:///run/containerd/containerd.sock",
		"cgroupDriver":             "cgroupfs", "cgroupRoot": "/", "failCgroupV1": false, "enforceNodeAllocatable": []string{},
		"staticPodPath": staticPods, "fileCheckFrequency": "1s",
		"failSwapOn": false, "makeIPTablesUtilChains": false, "nodeStatusUpdateFrequency": "5s",
		"maxPods": 250, "serializeImagePulls": false, "registryPullQPS": 0,
		// No image can be pulled again, and the disk is this machine's: nothing is removed or evicted for want of room.
		"imageGCHighThresholdPercent": 100, "imageGCLowThresholdPercent": 99,
		"evictionHard": map[string]string{"memory.available": "50Mi", "nodefs.available": "0%", "nodefs.inodesFree": "0%",
			"imagefs.available": "0%", "imagefs.inodesFree": "0%"},
	}
}

func containerdConfig(runc string) string {
	return fmt.Sprintf(`version = 3
[plugins."io.containerd.cri.v1.images"]
snapshotter = "overlayfs"
[plugins."io.containerd.cri.v1.images".pinned_images]
sandbox = %q
[plugins."io.containerd.cri.v1.runtime"]
# Without CAP_SYS_RESOURCE no score below the parent's can be set.
restrict_oom_score_adj = true
[plugins."io.containerd.cri.v1.runtime".cni]
bin_dirs = ["/opt/cni/bin"]
conf_dir = "/etc/cni/net.d"
[plugins."io.containerd.cri.v1.runtime".containerd.runtimes.runc]
runtime_type = "io.containerd.runc.v2"
[plugins."io.containerd.cri.v1.runtime".containerd.runtimes.runc.options]
BinaryName = %q
SystemdCgroup = false
`, pauseRef, runc)
}
