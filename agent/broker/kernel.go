// SPDX-License-Identifier: Apache-2.0

package broker

import (
	"net/netip"
	"time"

	"github.com/warren-mesh/warren/bpf"
	wire "github.com/warren-mesh/warren/mesh/broker"
	"github.com/warren-mesh/warren/mesh/reason"
)

// kernel is the datapath of the real programs.
type kernel struct {
	*bpf.Datapath
	kubelet *kubelet
}

var _ datapath = kernel{}

// loadDatapath attaches the programs at the pods' cgroup, or takes over those of an earlier process.
func loadDatapath(cfg Config, groups cgroups) (datapath, error) {
	k := newKubelet(cfg, groups)
	if err := k.look(time.Now()); err != nil {
		return nil, err
	}
	d, err := bpf.Load(bpf.Config{BPFFS: cfg.BPFFS, Cgroup: groups.pods, ProbeCgroup: k.dir, Log: cfg.Log})
	if err != nil {
		return nil, err
	}
	k.set = d.SetProbeCgroup
	return kernel{d, k}, nil
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
	k.kubelet.follow(time.Now())
	var out []drift
	for _, d := range k.Datapath.Verify(want) {
		out = append(out, drift{cookie: d.Cookie, text: d.String(), raw: d})
	}
	return out
}

func (k kernel) Repair(d drift) error { return k.Datapath.Repair(d.raw.(bpf.Drift)) }
