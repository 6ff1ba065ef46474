// SPDX-License-Identifier: Apache-2.0

package broker

import (
	"context"
	"fmt"
	"time"

	"golang.org/x/sys/unix"

	wire "github.com/warren-mesh/warren/mesh/broker"
)

const (
	retryEvery  = 100 * time.Millisecond // for pods not captured yet: their start may wait for it
	lookEvery   = 500 * time.Millisecond // at listeners and namespaces
	verifyEvery = time.Second            // at what is attached
)

// post hands the loop a function, and reports false if ctx ended first.
func (b *Broker) post(ctx context.Context, f func()) bool {
	select {
	case b.work <- f:
		return true
	case <-ctx.Done():
		return false
	case <-b.ended:
		return false
	}
}

// loop owns pods, agents and ztunnels until ctx ends.
func (b *Broker) loop(ctx context.Context) {
	defer close(b.ended)
	retry := time.NewTicker(retryEvery)
	defer retry.Stop()
	look := time.NewTicker(lookEvery)
	defer look.Stop()
	verify := time.NewTicker(verifyEvery)
	defer verify.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case f := <-b.work:
			f()
		case <-retry.C:
			for _, p := range b.pods {
				if p.phase == waiting {
					b.try(p)
				}
			}
		case <-look.C:
			b.look()
		case <-verify.C:
			b.verify()
		}
		if b.dirty {
			b.persist()
		}
	}
}

func (b *Broker) persist() {
	s := savedState{Exceptions: b.exceptions, Pods: []savedPod{}}
	for _, p := range b.pods {
		s.Pods = append(s.Pods, p.save())
	}
	if err := saveState(b.cfg.StateDir, s); err != nil {
		b.log.Error("captures not saved: a broker started without the agent will not know them", "err", err)
		return
	}
	b.dirty = false
}

// look goes over the pods: notices those gone, ends drains, revives listeners.
func (b *Broker) look() {
	now := time.Now()
	for _, p := range b.pods {
		switch {
		case p.phase == waiting, b.gone(p):
			continue
		case p.phase == draining && b.drainOver(p, now):
			b.dirty = true
			b.finish(p)
			continue
		}
		b.revive(p)
	}
}

// gone notices a pod whose cgroup or last process ended. A namespace without a process is looked at twice: a
// process may just be moving into the cgroup.
func (b *Broker) gone(p *pod) bool {
	if p.place.cgroup == "" {
		p.place.cgroup, _ = b.finder.cgroups.pod(p.want.UID)
		if p.place.cgroup == "" {
			return false // known by its namespace alone: the agent says when it ends
		}
	}
	cgroup, ns := b.finder.alive(*p.place)
	if ns {
		p.missing = 0
		return false
	}
	if p.missing++; cgroup && p.missing < 2 {
		return false
	}
	b.dirty = true
	b.lost(p, !cgroup)
	return true
}

// drainOver: every ztunnel said that it is done, there is none, or time is up.
func (b *Broker) drainOver(p *pod, now time.Time) bool {
	if now.After(p.drainUntil) {
		return true
	}
	for z := range b.ztunnels {
		if !p.drained[z] {
			return false
		}
	}
	// A broker just started waits for ztunnel to connect.
	return now.Sub(b.started) > 2*time.Second
}

// revive makes listeners work again that somebody shut down. The kernel dropped them from the socket map.
func (b *Broker) revive(p *pod) {
	for k, l := range p.listeners {
		if l == nil || l.listening() {
			continue
		}
		err := l.revive()
		if err == nil {
			err = b.dp.SetListener(p.place.ns.cookie, wire.Kind(k), l.fd)
		}
		if err != nil {
			b.log.Error("revive listener", "uid", p.want.UID, "kind", wire.Kind(k), "err", err)
			l.close()
			p.listeners[k] = nil
			b.setState(p, wire.State{Reason: fmt.Sprintf("%s: listener lost", kernelUnverified)})
			if p.phase == captured {
				p.phase, b.dirty = waiting, true // made anew at the next look
			}
			continue
		}
		b.repairs++
		b.log.Warn("listener revived: somebody shut it down", "uid", p.want.UID, "kind", wire.Kind(k))
	}
}

// verify compares what is attached with what should be, and repairs it.
func (b *Broker) verify() {
	var want []uint64
	byCookie := map[uint64]*pod{}
	for _, p := range b.pods {
		if p.phase == captured {
			want = append(want, p.place.ns.cookie)
			byCookie[p.place.ns.cookie] = p
		}
	}
	drifted := map[*pod]bool{}
	b.drifts = nil
	for _, d := range b.dp.Verify(want) {
		b.drifts = append(b.drifts, d.text)
		if p := byCookie[d.cookie]; p != nil {
			drifted[p] = true
		}
		err := b.host.do(func() error { return b.dp.Repair(d) })
		if p := byCookie[d.cookie]; err != nil && p != nil {
			err = b.capture(p)
		}
		if err != nil {
			b.log.Error("repair", "drift", d.text, "err", err)
			continue
		}
		b.repairs++
		b.log.Warn("repaired", "drift", d.text)
	}
	b.verified = time.Now()
	for _, p := range byCookie {
		switch {
		case !drifted[p]:
			p.unfixed = 0
			b.setState(p, wire.State{Captured: true})
		case p.unfixed > 0:
			// A repair did not hold: say so, and attach the pod from the start.
			b.setState(p, wire.State{Reason: kernelUnverified})
			b.try(p)
		default:
			p.unfixed++
		}
	}
}

// ztunnelReady takes in a ztunnel that handed back what it held, and tells it what there is.
func (b *Broker) ztunnelReady(z *ztunnel, handed []handedListener) {
	b.ztunnels[z] = true
	for _, h := range handed {
		b.handedBack(z, h)
	}
	for _, p := range b.pods {
		if p.phase == waiting && b.handed[p.want.UID] != nil {
			b.try(p)
		}
	}
	for _, p := range b.pods {
		if p.place == nil {
			continue
		}
		for k, l := range p.listeners {
			if l != nil {
				b.tellListener(z, p, wire.Kind(k), l)
			}
		}
		if p.phase == draining {
			z.tell(wire.TypePodDraining, wire.PodMessage{Pod: p.want.UID})
		}
	}
	z.tell(wire.TypeListenersDone, wire.Empty{})
}

func (b *Broker) podDrained(z *ztunnel, uid string) {
	if p := b.pods[uid]; p != nil && p.phase == draining {
		p.drained[z] = true
		if b.drainOver(p, time.Now()) {
			b.dirty = true
			b.finish(p)
		}
	}
}

// tellListeners sends a pod's listeners to every ztunnel; one that has them ignores it.
func (b *Broker) tellListeners(p *pod) {
	for z := range b.ztunnels {
		for k, l := range p.listeners {
			if l != nil {
				b.tellListener(z, p, wire.Kind(k), l)
			}
		}
	}
}

func (b *Broker) tellListener(z *ztunnel, p *pod, kind wire.Kind, l *listener) {
	m := wire.ListenerMessage{Pod: p.want.UID, Kind: kind, Cookie: l.cookie}
	if err := z.tellFD(wire.TypeListener, m, l.fd); err != nil {
		b.log.Error("pass listener", "uid", p.want.UID, "kind", kind, "err", err)
	}
}

func (b *Broker) tellZtunnels(t wire.Type, body any) {
	for z := range b.ztunnels {
		z.tell(t, body)
	}
}

// closeEverything closes what this process holds and leaves the kernel as it is: others hold the listeners.
func (b *Broker) closeEverything() {
	for _, p := range b.pods {
		for _, l := range p.listeners {
			if l != nil {
				l.close()
			}
		}
		if p.place != nil {
			p.place.ns.close()
		}
		if p.given != nil {
			p.given.Close()
		}
	}
	for _, hs := range b.handed {
		for _, h := range hs {
			unix.Close(h.fd)
		}
	}
	b.host.close()
}
