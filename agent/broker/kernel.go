// SPDX-License-Identifier: Apache-2.0

package broker

import (
	"fmt"
	"net/netip"
	"path/filepath"
	"strings"

	"github.com/warren-mesh/warren/bpf"
	wire "github.com/warren-mesh/warren/mesh/broker"
	"github.com/warren-mesh/warren/mesh/reason"
)

// kernel is the datapath of the real programs.
type kernel struct{ *bpf.Datapath }

var _ datapath = kernel{}

// loadDatapath attaches the programs at the pods' cgroup, or takes over those of an earlier process.
func loadDatapath(cfg Config, groups cgroups) (datapath, error) {
	kubelet := cfg.KubeletCgroup
	if kubelet == KubeletAuto {
		var err error
		if kubelet, err = kubeletCgroup(cfg, groups); err != nil {
			cfg.Log.Warn("kubelet's probes are connections like any other, which STRICT refuses: name its cgroup", "err", err)
		}
	}
	probe, err := probeCgroup(kubelet, groups)
	if err != nil {
		return nil, err
	}
	if probe != "" {
		cfg.Log.Info("connections of the kubelet to pods are probes", "cgroup", probe)
	}
	d, err := bpf.Load(bpf.Config{BPFFS: cfg.BPFFS, Cgroup: groups.pods, ProbeCgroup: probe, Log: cfg.Log})
	if err != nil {
		return nil, err
	}
	return kernel{d}, nil
}

// probeCgroup checks kubelet's cgroup. One that holds the pods too would make every pod's connection a probe.
func probeCgroup(path string, groups cgroups) (string, error) {
	if path == "" {
		return "", nil
	}
	if !strings.HasPrefix(path, groups.root) {
		path = filepath.Join(groups.root, path)
	}
	path = filepath.Clean(path)
	if groups.pods == path || strings.HasPrefix(groups.pods, path+"/") {
		return "", fmt.Errorf("use kubelet's cgroup %s: it contains the pods (%s); give kubelet a leaf cgroup of its own", path, groups.pods)
	}
	return path, nil
}

func (p podKey) kernel() bpf.Pod {
	return bpf.Pod{Cookie: p.Cookie, IPv4: p.IPv4, IPv6: p.IPv6, Running: p.Running}
}

func (k kernel) AttachPod(p podKey, netns int, l [wire.Kinds]int) error {
	return k.Datapath.AttachPod(p.kernel(), netns, bpf.Listeners{
		Outbound: l[wire.Outbound], HBONE: l[wire.HBONE], Plaintext: l[wire.Plaintext],
	})
}

func (k kernel) SetListener(cookie uint64, kind wire.Kind, fd int) error {
	slot := map[wire.Kind]int{
		wire.Outbound: bpf.ListenerOutbound, wire.HBONE: bpf.ListenerHBONE, wire.Plaintext: bpf.ListenerPlaintext,
	}[kind]
	return k.Datapath.SetListener(cookie, slot, fd)
}

func (k kernel) Enable(p podKey, except []netip.Prefix) error {
	return k.Datapath.Enable(p.kernel(), except...)
}

func (k kernel) Pods() ([]uint64, error) {
	pods, err := k.Datapath.Pods()
	if err != nil {
		return nil, err
	}
	cookies := make([]uint64, len(pods))
	for i, p := range pods {
		cookies[i] = p.Cookie
	}
	return cookies, nil
}

func (k kernel) Reasons() (map[string]uint64, error) {
	counts, err := k.Stats()
	if err != nil {
		return nil, err
	}
	out := map[string]uint64{}
	for r, n := range counts {
		if n > 0 {
			out[reason.Reason(r).String()] = n
		}
	}
	return out, nil
}

func (k kernel) Verify(want []uint64) []drift {
	var out []drift
	for _, d := range k.Datapath.Verify(want) {
		out = append(out, drift{cookie: d.Cookie, text: d.String(), raw: d})
	}
	return out
}

func (k kernel) Repair(d drift) error { return k.Datapath.Repair(d.raw.(bpf.Drift)) }
