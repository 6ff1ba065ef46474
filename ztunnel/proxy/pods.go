// SPDX-License-Identifier: Apache-2.0

package proxy

import (
	"cmp"
	"context"
	"slices"
	"sync"
	"time"

	"github.com/warren-mesh/warren/mesh"
	"github.com/warren-mesh/warren/mesh/reason"
	"github.com/warren-mesh/warren/ztunnel/hbone"
	"github.com/warren-mesh/warren/ztunnel/inpod"
)

// leaveGrace is how long a pod that left the mesh still takes tunnels: peers hear of it a little later.
const leaveGrace = 2 * time.Second

// listener is what the proxy needs of *inpod.Listener.
type listener interface {
	Accept() (*inpod.Conn, error)
	Close() error
}

// pod is what the proxy keeps for one pod, from the first of ZDS and broker that names it to the last.
type pod struct {
	uid    string
	budget *hbone.Budget
	life   context.Context // ends the pod's connections
	end    context.CancelCauseFunc

	mu        sync.Mutex
	known     bool // ZDS named it
	name      mesh.Name
	identity  mesh.Identity
	listeners map[inpod.Kind]listener
	serving   map[inpod.Kind]bool // accept loops run for the present listener
	leaving   context.CancelFunc  // set while it leaves the mesh
	conns     map[uint64]*connection
	tunnels   map[*tunnel]struct{}
}

// Add serves a pod (ZDS). Adding it again changes nothing, or takes back that it leaves.
func (p *Proxy) Add(uid, namespace, name, serviceAccount string) {
	id := mesh.Identity{TrustDomain: p.cfg.TrustDomain, Namespace: namespace, ServiceAccount: serviceAccount}
	p.mu.Lock()
	pd := p.podLocked(uid)
	pd.mu.Lock()
	old := pd.identity
	pd.known, pd.name, pd.identity = true, mesh.Name{Namespace: namespace, Name: name}, id
	if pd.leaving != nil {
		pd.leaving()
		pd.leaving = nil
	}
	pd.mu.Unlock()
	if old != id {
		p.wantLocked(old, -1)
		p.wantLocked(id, +1)
	}
	p.mu.Unlock()
	p.startLoops(pd)
	p.log.Info("pod added", "pod", uid, "namespace", namespace, "workload", name)
}

// Delete is ZDS saying that the pod left the mesh. It is served until the broker closes its listeners; what
// lives then has the drain deadline.
func (p *Proxy) Delete(uid string) {
	if pd := p.find(uid); pd != nil {
		p.leave(pd)
	}
}

// Retain deletes every pod that is not among uids: ZDS sent its whole list.
func (p *Proxy) Retain(uids map[string]bool) {
	p.mu.Lock()
	var gone []*pod
	for uid, pd := range p.pods {
		if !uids[uid] && pd.isKnown() {
			gone = append(gone, pd)
		}
	}
	p.mu.Unlock()
	for _, pd := range gone {
		p.leave(pd)
	}
}

// event takes what the broker says of a pod.
func (p *Proxy) event(e inpod.Event) {
	switch {
	case e.Listener != nil:
		p.listen(e.Pod, e.Kind, e.Listener)
	case e.Draining:
		p.Delete(e.Pod)
	case e.Gone:
		if pd := p.find(e.Pod); pd != nil {
			p.remove(pd, fail(reason.Drained, "the pod is gone"))
		}
	}
}

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
	pd.listeners[kind] = l
	pd.serving[kind] = false
	pd.mu.Unlock()
	p.mu.Unlock()
	p.startLoops(pd)
}

// startLoops accepts on every listener of a pod that ZDS named.
func (p *Proxy) startLoops(pd *pod) {
	p.mu.Lock()
	defer p.mu.Unlock()
	pd.mu.Lock()
	defer pd.mu.Unlock()
	if !pd.known || p.stopping {
		return
	}
	for kind, l := range pd.listeners {
		if pd.serving[kind] {
			continue
		}
		pd.serving[kind] = true
		serve := map[inpod.Kind]func(*pod, *inpod.Conn){
			inpod.Outbound: p.serveOutbound, inpod.Plaintext: p.servePlaintext, inpod.HBONE: p.serveTunnel,
		}[kind]
		for range acceptors {
			p.loops.Go(func() { p.accept(pd, l, serve) })
		}
	}
}

// leave lets the pod's connections live to their end or the drain deadline, then forgets the pod.
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
		if since >= p.cfg.Drain || since >= min(leaveGrace, p.cfg.Drain) && pd.count() == 0 {
			break
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return
		}
	}
	p.cfg.Sockets.Drained(pd.uid)
	p.remove(pd, &endError{reason: reason.Drained})
}

// remove ends all that is left of a pod, at once.
func (p *Proxy) remove(pd *pod, why error) {
	p.mu.Lock()
	if p.pods[pd.uid] == pd {
		delete(p.pods, pd.uid)
		p.wantLocked(pd.identity, -1)
		p.cfg.Metrics.Pods(len(p.pods))
	}
	p.mu.Unlock()
	p.pool.ClosePod(pd.uid)
	pd.stop(why)
	p.log.Info("pod removed", "pod", pd.uid, "cause", why)
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
			uid: uid, budget: hbone.NewBudget(podBudget), listeners: map[inpod.Kind]listener{}, serving: map[inpod.Kind]bool{},
			conns: map[uint64]*connection{}, tunnels: map[*tunnel]struct{}{},
		}
		pd.life, pd.end = context.WithCancelCause(p.life)
		p.pods[uid] = pd
		p.cfg.Metrics.Pods(len(p.pods))
	}
	return pd
}

// wantLocked counts the pods of an identity: its key lives with the first and is erased with the last.
func (p *Proxy) wantLocked(id mesh.Identity, n int) {
	if id.IsZero() {
		return
	}
	switch before := p.wanted[id]; {
	case before == 0 && n > 0:
		p.cfg.Identities.Want(id)
	case before+n == 0:
		p.cfg.Identities.Forget(id)
		delete(p.wanted, id)
		return
	}
	p.wanted[id] += n
}

func (pd *pod) isKnown() bool {
	pd.mu.Lock()
	defer pd.mu.Unlock()
	return pd.known
}

func (pd *pod) self() mesh.Identity {
	pd.mu.Lock()
	defer pd.mu.Unlock()
	return pd.identity
}

func (pd *pod) count() int {
	pd.mu.Lock()
	defer pd.mu.Unlock()
	return len(pd.conns)
}

func (pd *pod) closeListeners() {
	pd.mu.Lock()
	defer pd.mu.Unlock()
	for kind, l := range pd.listeners {
		_ = l.Close()
		delete(pd.listeners, kind)
	}
}

// stop ends listeners, connections and tunnels at once.
func (pd *pod) stop(why error) {
	pd.closeListeners()
	pd.end(why)
}

// goAway asks peers to open no new streams on the tunnels they hold to this pod.
func (pd *pod) goAway() {
	pd.mu.Lock()
	ts := make([]*tunnel, 0, len(pd.tunnels))
	for t := range pd.tunnels {
		ts = append(ts, t)
	}
	pd.mu.Unlock()
	for _, t := range ts {
		t.goAway()
	}
}

// PodInfo describes a pod for the admin page.
type PodInfo struct {
	UID       string
	Name      mesh.Name
	Identity  mesh.Identity
	Known     bool // ZDS named it
	Leaving   bool
	Listeners []string
	Inbound   []ConnectionInfo
	Outbound  []ConnectionInfo
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

func (pd *pod) info() PodInfo {
	pd.mu.Lock()
	defer pd.mu.Unlock()
	i := PodInfo{UID: pd.uid, Name: pd.name, Identity: pd.identity, Known: pd.known, Leaving: pd.leaving != nil}
	for kind := range pd.listeners {
		i.Listeners = append(i.Listeners, kind.String())
	}
	slices.Sort(i.Listeners)
	for _, c := range pd.conns {
		if ci := c.info(); ci.Direction == outbound {
			i.Outbound = append(i.Outbound, ci)
		} else {
			i.Inbound = append(i.Inbound, ci)
		}
	}
	return i
}
