// SPDX-License-Identifier: Apache-2.0

package broker

import (
	"context"
	"errors"
	"fmt"
	"os"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	wire "github.com/warren-mesh/warren/mesh/broker"
)

// How often the run directory is looked at: while a socket in it is not connected, and otherwise. Sockets that appear
// are told of by inotify, so that an idle broker sleeps.
const (
	lookBusy = 50 * time.Millisecond
	lookIdle = time.Second
)

// watchZtunnels keeps a connection to every ztunnel that listens in the run directory: old and new side by side
// during a roll-out.
func (b *Broker) watchZtunnels(ctx context.Context) {
	idle := lookIdle
	if err := b.watchRunDir(ctx); err != nil {
		b.log.Warn("the run directory is polled", "err", err)
		idle = lookBusy
	}
	w := ztunnelWatch{refused: map[string]time.Time{}}
	t := time.NewTimer(0)
	defer t.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-t.C:
		case <-b.appeared:
		}
		if b.connectZtunnels(ctx, &w) {
			t.Reset(idle)
		} else {
			t.Reset(lookBusy)
		}
	}
}

// ztunnelWatch is what watchZtunnels remembers from one look to the next.
type ztunnelWatch struct {
	refused map[string]time.Time // since when nobody listens on a socket
	last    string               // complaint
}

// connectZtunnels reports whether every socket there is has a connection now.
func (b *Broker) connectZtunnels(ctx context.Context, w *ztunnelWatch) bool {
	paths, err := wire.SocketPaths(b.cfg.RunDir, "ztunnel", "")
	if err != nil {
		b.log.Error("look for ztunnels", "err", err)
	}
	all := err == nil
	for _, p := range paths {
		if !b.claim(p) {
			continue
		}
		z, err := b.connectZtunnel(ctx, p)
		if err == nil {
			delete(w.refused, p)
			b.wg.Go(func() { b.serveZtunnel(ctx, z) })
			continue
		}
		all = false
		b.unclaim(p)
		if b.dead(p, err, w.refused) || errors.Is(err, unix.ECONNREFUSED) || ctx.Err() != nil {
			continue
		}
		if err.Error() != w.last {
			w.last = err.Error()
			b.log.Error("ztunnel refused", "err", err)
		}
	}
	return all
}

// watchRunDir fills appeared for every file that is made in the run directory, until ctx ends.
func (b *Broker) watchRunDir(ctx context.Context) error {
	fd, err := unix.InotifyInit1(unix.IN_CLOEXEC | unix.IN_NONBLOCK)
	if err != nil {
		return fmt.Errorf("watch %s: %w", b.cfg.RunDir, os.NewSyscallError("inotify_init1", err))
	}
	f := os.NewFile(uintptr(fd), "inotify")
	if _, err := unix.InotifyAddWatch(fd, b.cfg.RunDir, unix.IN_CREATE|unix.IN_MOVED_TO|unix.IN_ONLYDIR); err != nil {
		f.Close()
		return fmt.Errorf("watch %s: %w", b.cfg.RunDir, os.NewSyscallError("inotify_add_watch", err))
	}
	stop := context.AfterFunc(ctx, func() { f.Close() })
	b.wg.Go(func() {
		defer f.Close()
		defer stop()
		for events := make([]byte, 4096); ; b.lookSoon() {
			if _, err := f.Read(events); err != nil {
				return
			}
		}
	})
	return nil
}

// lookSoon has the run directory looked at. It never waits.
func (b *Broker) lookSoon() {
	select {
	case b.appeared <- struct{}{}:
	default:
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
	_ = os.Remove(strings.TrimSuffix(path, ".sock") + "-admin.sock") // the same ztunnel's, if it had one
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
	defer b.lookSoon()
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
