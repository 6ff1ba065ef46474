// SPDX-License-Identifier: Apache-2.0

package broker

import (
	"fmt"
	"time"

	wire "github.com/warren-mesh/warren/mesh/broker"
)

// revive makes listeners work again that somebody shut down. The kernel dropped them from the socket map.
func (b *Broker) revive(p *pod) {
	for k, l := range p.listeners {
		if l == nil {
			continue
		}
		// A ztunnel can change it for the next one, whose broken streams would look finished. On a TCP socket it can't fail.
		_ = endAbruptly(l.fd)
		if l.listening() {
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
