// SPDX-License-Identifier: Apache-2.0

package broker

import (
	"time"

	wire "github.com/warren-mesh/warren/mesh/broker"
)

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
		b.tellListenersOf(z, p)
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
		b.tellListenersOf(z, p)
	}
}

// listenersAsked: a ztunnel let go of a pod's listeners at an agent's word, and by now was told of the pod again. If it is
// captured nothing else would send them; in any other phase what comes next does.
func (b *Broker) listenersAsked(z *ztunnel, uid string) {
	if p := b.pods[uid]; p != nil && p.phase == captured && b.ztunnels[z] {
		b.log.Info("listeners passed again", "uid", uid)
		b.tellListenersOf(z, p)
	}
}

func (b *Broker) tellListenersOf(z *ztunnel, p *pod) {
	for k, l := range p.listeners {
		if l != nil {
			b.tellListener(z, p, wire.Kind(k), l)
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
