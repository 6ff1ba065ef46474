// SPDX-License-Identifier: Apache-2.0

package broker

import (
	"time"

	wire "github.com/warren-mesh/warren/mesh/broker"
)

// unenrol ends a pod's capture: new connections go direct from now on. With keep, tunnels that are alive, and
// the listener for more of them, go on until every ztunnel is done or the drain deadline.
func (b *Broker) unenrol(p *pod, keep bool) {
	if p.place == nil { // an earlier process may have attached it, and ztunnel may hold its listeners
		b.finish(p)
		return
	}
	if p.phase == draining && keep {
		return
	}
	cookie := p.place.ns.cookie
	if keep {
		if err := b.dp.KeepHBONE(cookie); err != nil {
			b.log.Error("end capture", "uid", p.want.UID, "err", err)
			keep = false // detaching is the sure way
		}
	}
	if !keep {
		b.finish(p)
		return
	}
	drain := b.drainTime()
	p.phase, p.drainUntil, p.drained = draining, time.Now().Add(drain), map[*ztunnel]bool{}
	for k, l := range p.listeners {
		if l != nil && wire.Kind(k) != wire.HBONE {
			l.close()
			p.listeners[k] = nil
		}
	}
	b.setState(p, wire.State{Reason: "un-enrolled; live tunnels go on"})
	b.tellZtunnels(wire.TypePodDraining, wire.PodMessage{Pod: p.want.UID})
	b.log.Info("pod un-enrolled", "pod", p.want.Namespace+"/"+p.want.Name, "uid", p.want.UID, "drain", drain)
}

// drainTime is how long live tunnels may last: as the agent says, else as the flag does.
func (b *Broker) drainTime() time.Duration {
	if b.drain == 0 {
		return b.cfg.Drain
	}
	return max(b.drain, 0)
}

// finish removes every trace of a pod, and forgets it.
func (b *Broker) finish(p *pod) {
	b.teardown(p)
	if p.given != nil {
		p.given.Close()
	}
	delete(b.pods, p.want.UID)
	b.setState(p, wire.State{Gone: true, Reason: "not wanted"})
	b.log.Info("pod released", "pod", p.want.Namespace+"/"+p.want.Name, "uid", p.want.UID)
}

// teardown takes a pod out of the kernel and closes what is open for it. The namespace may be dying.
func (b *Broker) teardown(p *pod) {
	uid := p.want.UID
	cookie := p.saved.Cookie
	if p.place != nil {
		cookie = p.place.ns.cookie
	}
	b.spaces.remove(uid)
	if cookie != 0 {
		if err := b.dp.Disable(cookie); err != nil {
			b.log.Debug("end capture", "uid", uid, "err", err)
		}
		if err := b.dp.DetachPod(cookie); err != nil {
			b.log.Error("detach pod", "uid", uid, "err", err)
		}
	}
	b.tellZtunnels(wire.TypePodGone, wire.PodMessage{Pod: uid})
	for k, l := range p.listeners {
		if l != nil {
			l.close()
			p.listeners[k] = nil
		}
	}
	b.dropHanded(uid)
	if p.place != nil {
		putBack(b.cfg, p.place.ns, p.sysctls)
		for z := range b.ztunnels {
			z.leave(p.place.ns)
		}
		p.place.ns.close()
	}
	p.place, p.sysctls, p.saved, p.phase, p.missing, p.occupied = nil, nil, savedPod{}, waiting, 0, false
}

// lost is for a pod whose cgroup or namespace ended under it.
func (b *Broker) lost(p *pod, whole bool) {
	wasDraining := p.phase == draining
	b.log.Info("pod gone", "pod", p.want.Namespace+"/"+p.want.Name, "uid", p.want.UID)
	b.teardown(p)
	if p.given != nil { // it was of the namespace that ended
		p.given.Close()
		p.given = nil
	}
	if wasDraining {
		b.finish(p)
		return
	}
	if whole {
		b.setState(p, wire.State{Gone: true, Reason: "the pod's cgroup ended"})
	} else {
		b.setState(p, wire.State{Gone: true, Reason: "no process is left in the pod's network namespace"})
	}
}
