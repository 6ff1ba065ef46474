// SPDX-License-Identifier: Apache-2.0

package broker

import (
	"context"
	"time"

	"golang.org/x/sync/errgroup"

	wire "github.com/warren-mesh/warren/mesh/broker"
)

// handBackWait bounds how long a starting broker waits for ztunnels to hand back what they hold. Meanwhile
// traffic goes on: programs are pinned and ztunnels accept.
const handBackWait = time.Second

// restore takes up what an earlier broker did: its captures from disk, its listeners from whoever held them, and
// the programs it left attached. It runs before the loop.
func (b *Broker) restore(ctx context.Context) {
	s, err := loadState(b.cfg.StateDir)
	if err != nil {
		b.log.Error("start without the captures of before", "err", err)
	}
	b.drain = s.Drain
	if s.Exceptions != nil {
		b.setExceptions(s.Exceptions)
	}
	b.collect(ctx)
	for _, sp := range s.Pods {
		if err := checkCapture(sp.Capture); err != nil {
			b.log.Error("saved capture refused", "err", err)
			continue
		}
		p := &pod{want: sp.Capture, saved: sp, drained: map[*ztunnel]bool{}}
		b.pods[sp.Capture.UID] = p
		if sp.DrainUntil.IsZero() {
			b.try(p)
		} else {
			b.resumeDrain(p, sp.DrainUntil)
		}
	}
	b.dirty = true
}

// resumeDrain goes on with an un-enrolment.
func (b *Broker) resumeDrain(p *pod, until time.Time) {
	pl, err := b.finder.find(p.want, nil)
	if err != nil {
		b.log.Info("un-enrolled pod is gone", "uid", p.want.UID, "err", err)
		b.finish(p)
		return
	}
	p.place = &pl
	b.forgetOtherNamespace(p)
	b.adopt(p)
	for k, l := range p.listeners {
		if l != nil && wire.Kind(k) != wire.HBONE {
			l.close()
			p.listeners[k] = nil
		}
	}
	b.spaces.add(p.want.UID, pl.ns)
	p.phase, p.drainUntil = draining, until
	p.state = wire.State{UID: p.want.UID, Reason: "un-enrolled; live tunnels go on", At: time.Now()}
}

// collect asks every ztunnel that listens for the listeners it holds. The connections made here are given up:
// the broker connects again when it can answer.
func (b *Broker) collect(ctx context.Context) {
	paths, err := wire.SocketPaths(b.cfg.RunDir, "ztunnel", "")
	if err != nil {
		b.log.Error("look for ztunnels", "err", err)
	}
	handed := make([][]handedListener, len(paths))
	var g errgroup.Group
	for i, path := range paths {
		g.Go(func() error {
			z, err := b.connectZtunnel(ctx, path)
			if err != nil {
				return nil // watchZtunnels will say so
			}
			defer z.close()
			stop := time.AfterFunc(handBackWait, func() { z.conn.Close() })
			defer stop.Stop()
			if handed[i], err = z.greet(b.gen); err != nil {
				b.log.Error("ztunnel handed nothing back", "socket", path, "err", err)
			}
			return nil
		})
	}
	_ = g.Wait()
	for _, hs := range handed {
		for _, h := range hs {
			b.keepHanded(h)
		}
	}
}
