// SPDX-License-Identifier: Apache-2.0

package proxy

import (
	"context"
	"net/netip"
	"slices"
	"time"

	"github.com/warren-mesh/warren/mesh"
	"github.com/warren-mesh/warren/mesh/reason"
	"github.com/warren-mesh/warren/ztunnel/admit"
	"github.com/warren-mesh/warren/ztunnel/authz"
)

// verdict is what policy says of one established connection.
type verdict struct {
	allowed bool
	reason  reason.Reason
	policy  mesh.Name
}

// evaluate asks authz.
func (c *connection) evaluate(snap *mesh.Snapshot, local *mesh.Workload, conn authz.Connection) verdict {
	d := c.proxy.policies.Evaluate(snap, local, conn)
	return verdict{allowed: d.Allowed, reason: d.Reason, policy: admit.Decisive(d)}
}

// judged learns what policy said of a connection that wants in; what it would have met but for dry run is told at
// its end.
func (c *connection) judged(d admit.Decision) {
	if !d.Judged {
		return
	}
	c.learn(func(f *facts) {
		f.dryRun, f.audit, f.policy = d.Policy.DryRun, d.Policy.Audit, mesh.Name{}
		if !d.Policy.Allowed {
			f.policy = admit.Decisive(d.Policy)
		}
	})
}

// admitted asks admit, which says from where to where the connection is allowed, and lets policy end it from then
// on. What changed between admit's snapshot and that moment recheck has not seen: it is judged here, and asked again.
func (c *connection) admitted(admit func() (src netip.Addr, dst netip.AddrPort, err error)) error {
	for {
		src, dst, err := admit()
		if err != nil {
			return err
		}
		judge := c.judgeFrom(src, dst)
		if judge(c.proxy.cfg.Store.Snapshot()).allowed {
			return nil
		}
	}
}

// judgeFrom lets policy end the connection later, by the facts that let it in. A pod that is on its way out, and
// no longer in the snapshot, keeps its connections.
func (c *connection) judgeFrom(src netip.Addr, dst netip.AddrPort) func(*mesh.Snapshot) verdict {
	c.mu.Lock()
	defer c.mu.Unlock()
	conn := authz.Connection{Identity: c.facts.sourceID, Source: src, Destination: dst}
	c.judge = func(snap *mesh.Snapshot) verdict {
		local := c.pod.workload(snap, func() *mesh.Workload { return snap.WorkloadByAddr(dst.Addr()) })
		if local == nil {
			return verdict{allowed: true}
		}
		return c.evaluate(snap, local, conn)
	}
	return c.judge
}

// recheck judges live inbound connections again whenever policies or their workloads changed, and tunnels whenever
// what is trusted did, and closes what is no longer allowed.
func (p *Proxy) recheck(ctx context.Context) {
	snap, changed := p.cfg.Store.Watch()
	undecided := p.recheckAll(snap, snap, true) // some may have been let in by an earlier one
	trust := p.cfg.Identities.TrustChanged()
	for {
		var later <-chan time.Time
		if undecided {
			later = time.After(250 * time.Millisecond)
		}
		select {
		case <-changed:
		case <-trust:
			trust = p.cfg.Identities.TrustChanged() // before the look: the next change must not be missed
			p.recheckTrust()
			continue
		case <-later:
		case <-ctx.Done():
			return
		}
		before := snap
		snap, changed = p.cfg.Store.Watch()
		undecided = p.recheckAll(before, snap, undecided)
		if !slices.Equal(before.Config().TrustDomainAliases, snap.Config().TrustDomainAliases) {
			p.recheckTrust()
		}
	}
}

// recheckAll reports whether some connection waits for a policy that is referenced and not known yet.
func (p *Proxy) recheckAll(before, snap *mesh.Snapshot, all bool) (undecided bool) {
	all = all || !snap.SamePolicies(before)
	for _, pd := range p.list() {
		// Without pod uids in the snapshot (another control plane) nobody can tell whether the pod changed.
		if w := snap.WorkloadByPod(pd.uid); !all && w != nil && w == before.WorkloadByPod(pd.uid) {
			continue
		}
		for _, c := range pd.list() {
			undecided = c.rejudge(snap) || undecided
		}
	}
	return undecided
}

// rejudge kills the connection if it is no longer allowed. An unknown policy has as long to arrive as for a new
// connection.
func (c *connection) rejudge(snap *mesh.Snapshot) (undecided bool) {
	c.mu.Lock()
	judge := c.judge
	c.mu.Unlock()
	if judge == nil {
		return false
	}
	v := judge(snap)
	c.mu.Lock()
	defer c.mu.Unlock()
	switch {
	case v.allowed:
		c.undecidedAt = time.Time{}
		return false
	case v.reason == reason.PolicyUnknown:
		if c.undecidedAt.IsZero() {
			c.undecidedAt = time.Now()
		}
		if time.Since(c.undecidedAt) < c.proxy.cfg.needWait {
			return true
		}
	}
	c.facts.policy = v.policy
	c.cancel(fail(reason.PolicyChanged, "policy %s no longer allows it: %s", v.policy, v.reason))
	return false
}

func (p *Proxy) list() []*pod {
	p.mu.Lock()
	defer p.mu.Unlock()
	out := make([]*pod, 0, len(p.pods))
	for _, pd := range p.pods {
		out = append(out, pd)
	}
	return out
}

func (pd *pod) list() []*connection {
	pd.mu.Lock()
	defer pd.mu.Unlock()
	out := make([]*connection, 0, len(pd.conns))
	for _, c := range pd.conns {
		out = append(out, c)
	}
	return out
}
