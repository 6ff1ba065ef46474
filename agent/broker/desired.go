// SPDX-License-Identifier: Apache-2.0

package broker

import (
	"errors"
	"net/netip"
	"os"
	"time"

	wire "github.com/warren-mesh/warren/mesh/broker"
)

// The functions of this file run in the loop: they carry out what the agent says.

func (b *Broker) updateCapture(a *agentConn, c wire.Capture, given *os.File) {
	a.sent[c.UID] = true
	if err := checkCapture(c); err != nil {
		b.log.Error("capture refused", "err", err)
		if given != nil {
			given.Close()
		}
		a.tell(wire.TypeCaptureState, wire.State{UID: c.UID, Gone: b.pods[c.UID] == nil, Reason: err.Error(), At: time.Now()})
		return
	}
	p := b.pods[c.UID]
	if p == nil {
		p = &pod{}
		b.pods[c.UID] = p
	}
	b.give(p, c, given)
	if p.phase == captured && sameCapture(p.want, c) {
		a.tell(wire.TypeCaptureState, p.state)
		return
	}
	told := p.state
	p.want, p.drainUntil = c, time.Time{}
	b.dirty = true
	b.try(p)
	if p.state == told && told.UID != "" {
		a.tell(wire.TypeCaptureState, p.state) // unchanged, but this agent has not heard it
	}
}

// give takes over a namespace that the CNI plugin opened. A sandbox made anew is in another one than the pod was in:
// what was attached there ends, once it is sure that the new one is the pod's.
func (b *Broker) give(p *pod, c wire.Capture, given *os.File) {
	if given == nil {
		return
	}
	if p.place != nil && !p.place.ns.is(given) {
		dir, _ := b.finder.cgroups.pod(c.UID)
		found, err := b.finder.handed(c, given, dir)
		if err != nil {
			b.log.Error("the network namespace handed over is not taken: the pod keeps its own", "uid", c.UID, "err", err)
			given.Close()
			return
		}
		found.ns.close()
		b.log.Info("pod has a new sandbox", "pod", c.Namespace+"/"+c.Name, "uid", c.UID)
		b.teardown(p)
	}
	if p.given != nil {
		p.given.Close()
	}
	p.given = given
}

// try captures a pod, and reports a failure; the loop tries again. A pod that is gone stays so until it is found.
func (b *Broker) try(p *pod) {
	err := b.capture(p)
	if err == nil {
		p.failure, p.failing = "", time.Time{}
		return
	}
	p.phase = waiting
	p.failed(time.Now())
	if failure := err.Error(); failure != p.failure {
		p.failure = failure
		b.log.Warn("pod not captured", "pod", p.want.Namespace+"/"+p.want.Name, "err", err)
	}
	if !p.state.Gone {
		b.setState(p, wire.State{Gone: errors.Is(err, errNoCgroup), Reason: p.failure})
	}
}

func (b *Broker) deleteCapture(a *agentConn, d wire.CaptureDelete) {
	delete(a.sent, d.UID)
	p := b.pods[d.UID]
	if p == nil {
		b.dropHanded(d.UID)
		return
	}
	b.dirty = true
	b.unenrol(p, d.Keep)
}

// prune ends what a complete list did not name: captures, what an earlier process left attached, and listeners
// that ztunnel holds of pods nobody wants. While one agent replaces another both are connected: what the other names is
// kept as long as it is there, for the CNI plugin announces a pod to one of them, before the other hears of it.
func (b *Broker) prune(a *agentConn) {
	b.synced, b.dirty = true, true
	a.spared = map[string]bool{}
	for uid, p := range b.pods {
		switch {
		case a.sent[uid]:
		case b.named(uid):
			a.spared[uid] = true
		default:
			b.unenrol(p, true)
		}
	}
	known := map[uint64]bool{}
	for _, p := range b.pods {
		if p.place != nil {
			known[p.place.ns.cookie] = true
		}
		known[p.saved.Cookie] = true
	}
	attached, err := b.dp.Pods()
	if err != nil {
		b.log.Error("list attached pods", "err", err)
	}
	for _, cookie := range attached {
		if known[cookie] {
			continue
		}
		b.log.Warn("pod of an earlier broker detached", "netns_cookie", cookie)
		if err := b.dp.DetachPod(cookie); err != nil {
			b.log.Error("detach pod of an earlier broker", "netns_cookie", cookie, "err", err)
		}
	}
	for uid := range b.handed {
		if b.pods[uid] == nil {
			b.dropHanded(uid)
			b.tellZtunnels(wire.TypePodGone, wire.PodMessage{Pod: uid})
		}
	}
}

// named reports whether any agent that is connected wants the pod.
func (b *Broker) named(uid string) bool {
	for a := range b.agents {
		if a.sent[uid] {
			return true
		}
	}
	return false
}

// agentEnded forgets a connection, and ends the captures that only its word kept from another's complete list.
func (b *Broker) agentEnded(a *agentConn) {
	delete(b.agents, a)
	for other := range b.agents {
		for uid := range other.spared {
			if p := b.pods[uid]; p != nil && !b.named(uid) {
				b.dirty = true
				b.unenrol(p, true)
			}
		}
	}
}

func (b *Broker) setExceptions(p []netip.Prefix) {
	b.exceptions, b.unset, b.dirty = p, true, true
	b.applyExceptions(time.Now())
}

func (b *Broker) applyExceptions(now time.Time) {
	err := b.dp.SetExceptions(b.exceptions)
	b.unset = err != nil
	b.excepting.tried(err, now, b.log)
}

func (b *Broker) tellState(s wire.State) {
	for a := range b.agents {
		a.tell(wire.TypeCaptureState, s)
	}
}
