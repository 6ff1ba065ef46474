// SPDX-License-Identifier: Apache-2.0

package broker

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strconv"
	"time"

	"golang.org/x/sys/unix"

	wire "github.com/warren-mesh/warren/mesh/broker"
)

// ztunnel is the connection to one ztunnel process.
type ztunnel struct {
	*outbox
	b       *Broker
	path    string
	peer    *unix.Ucred
	pidfd   int // -1 where its process is not seen
	visitor *visitor
	own     *space // ztunnel's own namespace, nil where its process is not seen
}

// connectZtunnel dials a ztunnel's socket and checks who made it. Only the process that listens there, as the
// kernel recorded it, gets sockets.
func (b *Broker) connectZtunnel(ctx context.Context, path string) (*ztunnel, error) {
	c, err := wire.Dial(ctx, path)
	if err != nil {
		return nil, err
	}
	peer, err := c.Peer()
	if err == nil && peer.Uid != b.cfg.ZtunnelUID {
		err = fmt.Errorf("its user is %d, not %d", peer.Uid, b.cfg.ZtunnelUID)
	}
	if err != nil {
		c.Close()
		return nil, fmt.Errorf("connect to ztunnel at %s: %w", path, err)
	}
	z := &ztunnel{outbox: newOutbox(c), b: b, path: path, peer: peer, visitor: newVisitor()}
	if z.pidfd, err = unix.PidfdOpen(int(peer.Pid), 0); err != nil {
		z.pidfd = -1
		b.log.Warn("ztunnel's process is not seen: it can neither dial from its own network nor be ended when it hangs (no host pid namespace?)", "pid", peer.Pid, "err", err)
	}
	b.openOwnSpace(z)
	return z, nil
}

// openOwnSpace lets ztunnel dial from its own network namespace, under the pod uid "".
func (b *Broker) openOwnSpace(z *ztunnel) {
	if z.pidfd < 0 {
		return
	}
	f, err := os.Open(filepath.Join(b.cfg.proc, strconv.Itoa(int(z.peer.Pid)), "ns/net"))
	if err == nil {
		// Still the process that listened, so that was its namespace.
		err = os.NewSyscallError("pidfd_send_signal", unix.PidfdSendSignal(z.pidfd, 0, nil, 0))
		if err != nil {
			f.Close()
		}
	}
	var ns *namespace
	if err == nil {
		ns, err = openNamespace(f)
	}
	if err != nil {
		b.log.Warn("open ztunnel's own network namespace", "pid", z.peer.Pid, "err", err)
		return
	}
	z.own = &space{ns: ns, credits: newCredits(b.cfg.CreditRate, b.cfg.CreditBurst)}
}

// greet exchanges versions and collects what ztunnel hands back.
func (z *ztunnel) greet(gen string) ([]handedListener, error) {
	if err := z.conn.Send(wire.TypeHello, wire.Hello{Role: "broker", Generation: gen}); err != nil {
		return nil, err
	}
	m, fds, err := z.conn.Recv()
	wire.CloseFDs(fds)
	if err == nil && m.Type != wire.TypeHello {
		err = fmt.Errorf("%w (message %d)", wire.ErrMalform, m.Type)
	}
	if err != nil {
		return nil, fmt.Errorf("greet ztunnel: %w", err)
	}
	return receiveListeners(z.conn)
}

// receiveListeners reads listeners up to the end of the list.
func receiveListeners(c *wire.Conn) ([]handedListener, error) {
	var out []handedListener
	fail := func(err error) ([]handedListener, error) {
		for _, h := range out {
			unix.Close(h.fd)
		}
		return nil, fmt.Errorf("receive listeners: %w", err)
	}
	for {
		m, fds, err := c.Recv()
		if err != nil {
			return fail(err)
		}
		if m.Type == wire.TypeListenersDone {
			wire.CloseFDs(fds)
			return out, nil
		}
		var lm wire.ListenerMessage
		if m.Type != wire.TypeListener || len(fds) != 1 {
			err = fmt.Errorf("%w (message %d, %d descriptors)", wire.ErrMalform, m.Type, len(fds))
		} else {
			err = m.Into(&lm)
		}
		if err != nil {
			wire.CloseFDs(fds)
			return fail(err)
		}
		out = append(out, handedListener{message: lm, fd: fds[0]})
		if len(out) > maxHanded {
			return fail(wire.ErrTooLong)
		}
	}
}

const maxHanded = 3 * 1024 // listeners; far over the pods of any node

// serve answers ztunnel's requests until it ends. An unresponsive one is ended: it would pin namespaces.
func (z *ztunnel) serve(ctx context.Context) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	defer context.AfterFunc(ctx, func() { z.conn.Close() })()
	sent := make(chan error, 1)
	go func() {
		err := z.outbox.run(ctx)
		z.conn.Close()
		sent <- err
	}()
	err := z.read(ctx)
	cancel()
	if serr := <-sent; serr != nil {
		err = serr
	}
	if errors.Is(err, os.ErrDeadlineExceeded) {
		z.kill()
	}
	if errors.Is(err, io.EOF) {
		return nil
	}
	return err
}

func (z *ztunnel) read(ctx context.Context) error {
	for {
		m, fds, err := z.conn.Recv()
		wire.CloseFDs(fds) // after the list, ztunnel has none for us
		if err != nil {
			return err
		}
		switch m.Type {
		case wire.TypeSocketsRequest:
			var r wire.SocketsRequest
			if err := m.Into(&r); err != nil {
				return err
			}
			if err := z.giveSockets(r); err != nil {
				return err
			}
		case wire.TypePodDrained:
			var p wire.PodMessage
			if err := m.Into(&p); err != nil {
				return err
			}
			z.b.post(ctx, func() { z.b.podDrained(z, p.Pod) })
		case wire.TypeUnixRequest, wire.TypeFileRequest:
			var r wire.NameRequest
			if err := m.Into(&r); err != nil {
				return err
			}
			if err := z.giveNamed(ctx, m.Type, r); err != nil {
				return err
			}
		default:
			return fmt.Errorf("serve ztunnel: %w (message %d is not ztunnel's to send)", wire.ErrMalform, m.Type)
		}
	}
}

// leave lets go of a namespace that is being closed.
func (z *ztunnel) leave(n *namespace) { go func() { _ = z.visitor.home(n, z.b.host) }() }

func (z *ztunnel) kill() {
	z.b.log.Error("ztunnel is unresponsive: ended", "pid", z.peer.Pid, "after", wire.WriteTimeout)
	if z.pidfd >= 0 {
		if err := unix.PidfdSendSignal(z.pidfd, unix.SIGKILL, nil, 0); err != nil {
			z.b.log.Error("end ztunnel", "pid", z.peer.Pid, "err", err)
		}
	}
}

func (z *ztunnel) close() {
	z.conn.Close()
	z.visitor.close()
	if z.pidfd >= 0 {
		unix.Close(z.pidfd)
	}
	if z.own != nil {
		z.own.ns.close()
	}
}

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
