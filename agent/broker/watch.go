// SPDX-License-Identifier: Apache-2.0

package broker

import (
	"context"
	"errors"
	"os"
	"time"

	"golang.org/x/sys/unix"

	wire "github.com/warren-mesh/warren/mesh/broker"
)

// watchZtunnels keeps a connection to every ztunnel that listens in the run directory: old and new side by side
// during a roll-out.
func (b *Broker) watchZtunnels(ctx context.Context) {
	t := time.NewTicker(50 * time.Millisecond)
	defer t.Stop()
	refused := map[string]time.Time{}
	var last string
	for {
		paths, err := wire.SocketPaths(b.cfg.RunDir, "ztunnel", "")
		if err != nil {
			b.log.Error("look for ztunnels", "err", err)
		}
		for _, p := range paths {
			if !b.claim(p) {
				continue
			}
			z, err := b.connectZtunnel(ctx, p)
			if err == nil {
				delete(refused, p)
				b.wg.Go(func() { b.serveZtunnel(ctx, z) })
				continue
			}
			b.unclaim(p)
			if b.dead(p, err, refused) || errors.Is(err, unix.ECONNREFUSED) || ctx.Err() != nil {
				continue
			}
			if err.Error() != last {
				last = err.Error()
				b.log.Error("ztunnel refused", "err", err)
			}
		}
		select {
		case <-ctx.Done():
			return
		case <-t.C:
		}
	}
}

// dead removes a socket that nobody has listened on for a second.
func (b *Broker) dead(path string, err error, since map[string]time.Time) bool {
	if !errors.Is(err, unix.ECONNREFUSED) {
		delete(since, path)
		return false
	}
	first, seen := since[path]
	if !seen {
		since[path] = time.Now()
		return false
	}
	if time.Since(first) < time.Second {
		return false
	}
	delete(since, path)
	return os.Remove(path) == nil
}

func (b *Broker) claim(path string) bool {
	b.claimMu.Lock()
	defer b.claimMu.Unlock()
	if b.claimed[path] {
		return false
	}
	b.claimed[path] = true
	return true
}

func (b *Broker) unclaim(path string) {
	b.claimMu.Lock()
	defer b.claimMu.Unlock()
	delete(b.claimed, path)
}

// serveZtunnel runs one connection from greeting to end.
func (b *Broker) serveZtunnel(ctx context.Context, z *ztunnel) {
	defer b.unclaim(z.path)
	defer z.close()
	stop := time.AfterFunc(wire.WriteTimeout, func() { z.conn.Close() })
	handed, err := z.greet(b.gen)
	stop.Stop()
	if err != nil {
		b.log.Error("ztunnel refused", "socket", z.path, "err", err)
		b.pause(ctx)
		return
	}
	b.log.Info("ztunnel connected", "socket", z.path, "pid", z.peer.Pid, "listeners", len(handed))
	if !b.post(ctx, func() { b.ztunnelReady(z, handed) }) {
		for _, h := range handed {
			unix.Close(h.fd)
		}
		return
	}
	err = z.serve(ctx)
	b.post(ctx, func() { delete(b.ztunnels, z) })
	b.log.Info("ztunnel gone", "socket", z.path, "pid", z.peer.Pid, "err", err)
}

func (b *Broker) pause(ctx context.Context) {
	select {
	case <-ctx.Done():
	case <-time.After(500 * time.Millisecond):
	}
}
