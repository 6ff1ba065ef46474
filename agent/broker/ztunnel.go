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
	named   *credits
	again   *credits // for listeners it had before
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
	z := &ztunnel{outbox: newOutbox(c), b: b, path: path, peer: peer, visitor: newVisitor(), named: newCredits(namedRate, namedBurst), again: newCredits(againRate, againBurst)}
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
	f, err := os.Open(filepath.Join(b.cfg.Proc, strconv.Itoa(int(z.peer.Pid)), "ns/net"))
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
	return receiveListeners(z.conn, z.fetch)
}

// fetch copies a descriptor out of ztunnel's process: what could not travel. It may get one that ztunnel opened there
// since; whoever keeps it looks at what it is.
func (z *ztunnel) fetch(number int) (int, error) {
	if z.pidfd < 0 {
		return -1, fmt.Errorf("get ztunnel's descriptor %d: its process is not seen", number)
	}
	fd, err := unix.PidfdGetfd(z.pidfd, number, 0)
	if err != nil {
		return -1, fmt.Errorf("get ztunnel's descriptor %d: %w (SYS_PTRACE?)", number, os.NewSyscallError("pidfd_getfd", err))
	}
	return fd, nil
}

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
		case wire.TypeListenersRequest:
			var p wire.PodMessage
			if err := m.Into(&p); err != nil {
				return err
			}
			if granted, _ := z.again.take(1, time.Now()); granted == 0 {
				z.b.log.Warn("ztunnel asked too often for listeners it had", "uid", p.Pod)
				continue
			}
			z.b.post(ctx, func() { z.b.listenersAsked(z, p.Pod) })
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
