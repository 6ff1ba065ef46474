// SPDX-License-Identifier: Apache-2.0

package broker

import (
	"context"
	"time"

	"golang.org/x/sys/unix"
)

const (
	retryEvery  = 100 * time.Millisecond // for pods not captured yet: their start may wait for it,
	retryEager  = 10 * time.Second       // those that were found only so long: they must not keep the loop busy
	retryPause  = time.Second            // afterwards
	lookEvery   = 500 * time.Millisecond // at listeners and namespaces
	verifyEvery = time.Second            // at what is attached
	turnLong    = time.Second            // of the loop, that is said: meanwhile no pod is captured and nobody is answered
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
		var what string
		var turn func()
		select {
		case <-ctx.Done():
			return
		case f := <-b.work:
			what, turn = "request", f
		case now := <-retry.C:
			what, turn = "captures", func() { b.retry(now) }
		case <-look.C:
			what, turn = "look at the pods", b.look
		case <-verify.C:
			what, turn = "verification", b.verify
		}
		begun := time.Now()
		turn()
		b.chores(time.Now())
		if took := time.Since(begun); took > turnLong {
			b.log.Warn("busy: meanwhile no pod was captured and nobody was answered", "with", what, "took", took)
		}
	}
}

// retry tries again to capture what waits for it.
func (b *Broker) retry(now time.Time) {
	for _, p := range b.pods {
		if p.phase == waiting && (p.place == nil || !now.Before(p.nextTry)) {
			b.try(p)
		}
	}
}

// chores does what is left to do, once it is time for another try.
func (b *Broker) chores(now time.Time) {
	if b.unset && b.excepting.due(now) {
		b.applyExceptions(now)
	}
	if b.dirty && b.saving.due(now) {
		b.persist(now)
	}
}

// persist saves the captures. While it fails, a broker started without the agent will not know them.
func (b *Broker) persist(now time.Time) {
	s := savedState{Exceptions: b.exceptions, Drain: b.drain, Pods: []savedPod{}}
	for _, p := range b.pods {
		s.Pods = append(s.Pods, p.save())
	}
	err := saveState(b.cfg.StateDir, s)
	b.dirty = err != nil
	b.saving.tried(err, now, b.log)
}

// look goes over the pods: notices those gone, ends drains, revives listeners.
func (b *Broker) look() {
	now := time.Now()
	for _, p := range b.pods {
		switch {
		case p.place != nil && b.gone(p), p.phase == waiting:
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
	cgroup, ns, err := b.finder.alive(p.place)
	if err != nil {
		b.log.Warn("look for the pod's processes", "uid", p.want.UID, "err", err)
		return false
	}
	if ns {
		p.missing, p.occupied = 0, true
		return false
	}
	if cgroup && p.given != nil && !p.occupied {
		return false // announced by the CNI plugin: the sandbox's first process is still to come
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
