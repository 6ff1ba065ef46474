// SPDX-License-Identifier: Apache-2.0

package proxy

import (
	"cmp"
	"context"
	"slices"
	"time"

	"github.com/warren-mesh/warren/mesh"
	"github.com/warren-mesh/warren/mesh/reason"
	"github.com/warren-mesh/warren/ztunnel/hbone"
	"github.com/warren-mesh/warren/ztunnel/inpod"
)

// leaveGrace is how long a pod that left the mesh still takes tunnels: peers hear of it a little later.
const leaveGrace = 2 * time.Second

func (p *Proxy) newLife() life {
	ctx, end := context.WithCancelCause(p.life)
	return life{ctx, end}
}

// Add serves a pod (ZDS). Adding it again changes nothing, or takes back that it leaves.
func (p *Proxy) Add(uid, namespace, name, serviceAccount string) {
	id := mesh.Identity{TrustDomain: p.cfg.TrustDomain, Namespace: namespace, ServiceAccount: serviceAccount}
	p.mu.Lock()
	pd := p.podLocked(uid)
	pd.mu.Lock()
	pd.known, pd.name, pd.identity = true, mesh.Name{Namespace: namespace, Name: name}, id
	pd.stay()
	pd.mu.Unlock()
	p.wantLocked(pd, id)
	p.mu.Unlock()
	p.startLoops(pd)
	p.cfg.Sockets.Reopen(uid) // it may have left by another agent's word
	p.log.Info("pod added", "pod", uid, "namespace", namespace, "workload", name)
}

// Delete is ZDS saying that the pod left the mesh. It is served until the broker closes its listeners; what
// lives then has the drain deadline.
func (p *Proxy) Delete(uid string) {
	pd := p.find(uid)
	if pd == nil {
		return
	}
	pd.mu.Lock()
	pd.known = false
	empty := len(pd.listeners) == 0 && len(pd.conns) == 0
	pd.mu.Unlock()
	if empty {
		p.settle(context.Background(), pd, errLeft)
	} else {
		p.leave(pd)
	}
}

// event takes what the broker says of a pod.
func (p *Proxy) event(e inpod.Event) {
	if e.Listener != nil {
		p.listen(e.Pod, e.Kind, e.Listener)
		return
	}
	pd := p.find(e.Pod)
	switch {
	case pd == nil:
	case e.Draining:
		p.leave(pd)
	case e.Gone:
		p.settle(context.Background(), pd, fail(reason.Drained, "the pod is gone"))
	}
}

// errLeft ends what outlives its pod's stay in the mesh.
var errLeft = fail(reason.Drained, "its pod left the mesh or its ztunnel ended, and the time to drain is over")

func (p *Proxy) listen(uid string, kind inpod.Kind, l listener) {
	p.mu.Lock()
	if p.stopping {
		p.mu.Unlock()
		_ = l.Close()
		return
	}
	pd := p.podLocked(uid)
	pd.mu.Lock()
	if old := pd.listeners[kind]; old != nil {
		_ = old.Close()
	}
	pd.listeners[kind], pd.serving[kind] = l, false
	known, id := pd.known, pd.identity
	if known { // enrolled again before it had left
		pd.stay()
	}
	pd.mu.Unlock()
	if known {
		p.wantLocked(pd, id)
	}
	p.mu.Unlock()
	p.startLoops(pd)
}

// TakeOver begins to accept, where that was Held. For a while the other ztunnel does so as well, and any connection between
// two pods here may arrive there.
func (p *Proxy) TakeOver() {
	if p.beside.Load() {
		time.AfterFunc(p.cfg.elsewhere, func() { p.beside.Store(false) })
	}
	p.mu.Lock()
	p.held = false
	p.mu.Unlock()
	for _, pd := range p.list() {
		p.startLoops(pd)
	}
}

// startLoops accepts on every listener of a pod that ZDS named.
func (p *Proxy) startLoops(pd *pod) {
	p.mu.Lock()
	defer p.mu.Unlock()
	pd.mu.Lock()
	defer pd.mu.Unlock()
	if !pd.known || p.stopping || p.held {
		return
	}
	for kind, l := range pd.listeners {
		if pd.serving[kind] {
			continue
		}
		pd.serving[kind] = true
		serve := map[inpod.Kind]serveFunc{
			inpod.Outbound: p.serveOutbound, inpod.Plaintext: p.servePlaintext, inpod.HBONE: p.serveTunnel,
		}[kind]
		stay, slots := pd.life, chan struct{}(nil)
		if kind == inpod.HBONE {
			slots = pd.handshakes
		}
		for range acceptors {
			p.loops.Go(func() { p.accept(stay, pd, l, serve, slots) })
		}
	}
}

// leave lets the pod's connections live to their end or the drain deadline, and then settles it.
func (p *Proxy) leave(pd *pod) {
	pd.mu.Lock()
	if pd.leaving != nil {
		pd.mu.Unlock()
		return
	}
	ctx, cancel := context.WithCancel(pd.life)
	pd.leaving = cancel
	pd.mu.Unlock()
	pd.goAway()
	p.loops.Go(func() {
		defer cancel()
		p.awaitLeft(ctx, pd)
	})
}

func (p *Proxy) awaitLeft(ctx context.Context, pd *pod) {
	began := time.Now()
	tick := time.NewTicker(50 * time.Millisecond)
	defer tick.Stop()
	for {
		since := time.Since(began)
		if drain := p.drainTime(); since >= drain || since >= min(leaveGrace, drain) && pd.count() == 0 {
			break
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return
		}
	}
	if p.settle(ctx, pd, errLeft) {
		p.cfg.Sockets.Drained(pd.uid)
	}
}

// settle ends, at once, all that is left of the pod's stay in the mesh, and its key. While ZDS still names the
// pod, listeners that come later begin another. It does nothing, and says so, when leaving has ended: the pod stays.
func (p *Proxy) settle(leaving context.Context, pd *pod, why error) bool {
	p.mu.Lock()
	pd.mu.Lock()
	if leaving.Err() != nil {
		pd.mu.Unlock()
		p.mu.Unlock()
		return false
	}
	old, known := pd.life, pd.known
	pd.closeListenersLocked()
	pd.stay()
	pd.life = p.newLife()
	pd.mu.Unlock()
	p.wantLocked(pd, mesh.Identity{})
	if !known && p.pods[pd.uid] == pd {
		delete(p.pods, pd.uid)
		p.cfg.Metrics.PodStopped()
	}
	p.mu.Unlock()
	p.pool.ClosePod(pd.uid)
	p.witnesses.closePod(pd.uid)
	old.end(why)
	p.log.Info("pod out of the mesh", "pod", pd.uid, "announced", known)
	return true
}

// budget is what the tunnels of a pod share, whichever end opened them. nil, one for each, when the pod went meanwhile.
func (p *Proxy) budget(uid string) *hbone.Budget {
	if pd := p.find(uid); pd != nil {
		return pd.account.budget
	}
	return nil
}

func (p *Proxy) find(uid string) *pod {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.pods[uid]
}

func (p *Proxy) podLocked(uid string) *pod {
	pd := p.pods[uid]
	if pd == nil {
		pd = &pod{
			uid: uid, account: account{budget: hbone.NewBudget(podBudget)}, life: p.newLife(), listeners: map[inpod.Kind]listener{},
			handshakes: make(chan struct{}, p.cfg.PodHandshakes),
			serving:    map[inpod.Kind]bool{}, conns: map[uint64]*connection{}, tunnels: map[*tunnel]struct{}{},
		}
		p.pods[uid] = pd
		p.cfg.Metrics.PodStarted()
	}
	return pd
}

// wantLocked says which identity's key the pod needs, zero for none. A key lives with the first pod that needs it
// and is erased with the last.
func (p *Proxy) wantLocked(pd *pod, id mesh.Identity) {
	old := pd.wants
	if old == id {
		return
	}
	pd.wants = id
	if !id.IsZero() {
		if p.wanted[id]++; p.wanted[id] == 1 {
			p.cfg.Identities.Want(id)
		}
	}
	if !old.IsZero() {
		if p.wanted[old]--; p.wanted[old] == 0 {
			delete(p.wanted, old)
			p.cfg.Identities.Forget(old)
		}
	}
}

// Pods describes every pod, by uid.
func (p *Proxy) Pods() []PodInfo {
	p.mu.Lock()
	defer p.mu.Unlock()
	out := make([]PodInfo, 0, len(p.pods))
	for _, pd := range p.pods {
		out = append(out, pd.info())
	}
	slices.SortFunc(out, func(a, b PodInfo) int { return cmp.Compare(a.UID, b.UID) })
	return out
}
