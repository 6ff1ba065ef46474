// SPDX-License-Identifier: Apache-2.0

package broker

import (
	"errors"
	"fmt"
	"time"

	"golang.org/x/sys/unix"

	wire "github.com/warren-mesh/warren/mesh/broker"
)

// capture brings a pod into the mesh, from wherever it stands: find it, make its listeners, steer to them, and
// only then let the hooks send connections there; the guard, which drops what went round them, is last. Each
// step is idempotent, so that a failure is simply tried again from the start.
//
// A new pod that holds one of ztunnel's ports is steered all the same, without that listener: what would reach it
// is refused until the pod lets go. Otherwise a port would be a way out of the mesh. A pod that ran before it was
// enrolled may hold the port in good faith, and stays outside, which its node reports.
func (b *Broker) capture(p *pod) error {
	if p.place == nil {
		pl, err := b.finder.find(p.want, p.given)
		if err != nil {
			return err
		}
		p.place = &pl
		b.forgetOtherNamespace(p)
	} else {
		// The namespace is known; its address, or its interface, may have become another.
		end, err := b.finder.hostEnd(p.place.ns, p.want.Addresses)
		if err != nil {
			return fmt.Errorf("find network of pod %s: %w", p.want.UID, err)
		}
		p.place.hostIfindex = end
	}
	incomplete := b.openListeners(p)
	if incomplete != nil && (p.want.Running || !errors.Is(incomplete, unix.EADDRINUSE)) {
		return incomplete
	}
	b.setSysctls(p)
	key := p.key()
	if err := b.dp.AttachPod(key, p.place.ns.fd(), p.fds()); err != nil {
		return fmt.Errorf("attach pod %s: %w", p.want.UID, err)
	}
	b.spaces.add(p.want.UID, p.place.ns)
	b.tellListeners(p)
	if err := b.dp.Enable(key, p.want.Except); err != nil {
		return fmt.Errorf("enable capture of pod %s: %w", p.want.UID, err)
	}
	err := b.host.do(func() error { return b.dp.AttachGuard(key.Cookie, p.place.hostIfindex) })
	if err != nil {
		return fmt.Errorf("attach guard of pod %s: %w", p.want.UID, err)
	}
	if incomplete != nil {
		return incomplete
	}
	p.phase, p.drainUntil, p.drained, p.saved = captured, time.Time{}, nil, savedPod{}
	b.persist(time.Now()) // before anybody relies on it
	b.setState(p, wire.State{Captured: true})
	b.log.Info("pod captured", "pod", p.want.Namespace+"/"+p.want.Name, "uid", p.want.UID)
	return nil
}

// forgetOtherNamespace drops what an earlier process attached to a namespace that is no longer the pod's.
func (b *Broker) forgetOtherNamespace(p *pod) {
	if p.saved.Cookie == p.place.ns.cookie {
		p.sysctls = p.saved.Sysctls
		return
	}
	if p.saved.Cookie != 0 {
		if err := b.dp.DetachPod(p.saved.Cookie); err != nil {
			b.log.Error("detach the pod's former namespace", "uid", p.want.UID, "err", err)
		}
	}
	p.saved = savedPod{}
}

// openListeners makes the listeners that are missing, after adopting those that others handed over.
func (b *Broker) openListeners(p *pod) error {
	b.adopt(p)
	missing := false
	for _, l := range p.listeners {
		missing = missing || l == nil
	}
	if !missing {
		return nil
	}
	return p.place.ns.do(func() error {
		for k := range p.listeners {
			if p.listeners[k] != nil {
				continue
			}
			l, err := makeListener(wire.Kind(k))
			if errors.Is(err, unix.EADDRINUSE) {
				return fmt.Errorf("capture pod %s: %w (a process holds the port: the pod's own, or a ztunnel that is about to hand it over)", p.want.UID, err)
			}
			if err != nil {
				return fmt.Errorf("capture pod %s: %w", p.want.UID, err)
			}
			p.listeners[k] = l
		}
		return nil
	})
}

func (b *Broker) setSysctls(p *pod) {
	if p.sysctls == nil {
		p.sysctls = map[string]string{}
	}
	if len(p.sysctls) == len(sysctls) {
		return
	}
	if err := p.place.ns.do(func() error { return changeSysctls(b.cfg.Proc, p.sysctls) }); err != nil {
		// The pod works: up to about 470 connections per second, with the usual range of source ports.
		b.log.Warn("change sysctls of pod", "uid", p.want.UID, "err", err)
	}
}
