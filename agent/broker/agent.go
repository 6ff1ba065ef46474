// SPDX-License-Identifier: Apache-2.0

package broker

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"time"

	wire "github.com/warren-mesh/warren/mesh/broker"
)

// greetWait is how long a new connection may be silent: nothing else would end it.
const greetWait = 5 * time.Second

// agentConn is the connection of one agent.
type agentConn struct {
	*outbox
	b *Broker
	// Pod uids, the loop's: named on this connection; and those beyond its complete list that another's names.
	sent, spared map[string]bool
}

// acceptAgents serves agents, and a broker that wants to take over, until ctx ends.
func (b *Broker) acceptAgents(ctx context.Context, l *net.UnixListener) {
	defer context.AfterFunc(ctx, func() { l.Close() })()
	for {
		uc, err := l.AcceptUnix()
		if err != nil {
			if ctx.Err() != nil || errors.Is(err, net.ErrClosed) {
				return
			}
			b.log.Error("accept agent", "err", err)
			b.pause(ctx)
			continue
		}
		b.wg.Go(func() {
			c := wire.NewConn(uc)
			defer c.Close()
			if err := b.serveAgent(ctx, c); err != nil && ctx.Err() == nil {
				b.log.Error("agent connection", "err", err)
			}
		})
	}
}

// serveAgent speaks to one agent. ztunnel can reach this socket too, and must not be served.
func (b *Broker) serveAgent(ctx context.Context, c *wire.Conn) error {
	defer context.AfterFunc(ctx, func() { c.Close() })()
	peer, err := c.Peer()
	if err != nil {
		return err
	}
	if peer.Uid != 0 {
		return fmt.Errorf("serve agent: refused process %d of user %d (only root commands the broker)", peer.Pid, peer.Uid)
	}
	m, fds, err := c.RecvWithin(b.greetWait)
	wire.CloseFDs(fds)
	if err == nil && m.Type != wire.TypeHello {
		err = fmt.Errorf("%w (message %d)", wire.ErrMalform, m.Type)
	}
	if err != nil {
		return fmt.Errorf("greet agent: %w", err)
	}
	if err := c.Send(wire.TypeHello, wire.Hello{Role: "broker", Generation: b.gen}); err != nil {
		return err
	}
	a := &agentConn{outbox: newOutbox(c), b: b, sent: map[string]bool{}}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	if !b.post(ctx, func() { b.agents[a] = true }) {
		return nil
	}
	defer b.post(context.WithoutCancel(ctx), func() { b.agentEnded(a) })
	sent := make(chan error, 1)
	go func() {
		err := a.outbox.run(ctx)
		c.Close()
		sent <- err
	}()
	err = a.read(ctx)
	cancel()
	if serr := <-sent; serr != nil {
		return serr
	}
	if errors.Is(err, io.EOF) {
		return nil
	}
	return err
}

func (a *agentConn) read(ctx context.Context) error {
	for {
		m, fds, err := a.conn.Recv()
		if err != nil {
			return err
		}
		if err := a.handle(ctx, m, fds); err != nil {
			return err
		}
	}
}

// handle takes one message; the descriptors are its own.
func (a *agentConn) handle(ctx context.Context, m wire.Message, fds []int) error {
	b := a.b
	if m.Type == wire.TypeCaptureUpdate {
		return a.update(ctx, m, fds)
	}
	wire.CloseFDs(fds)
	switch m.Type {
	case wire.TypeCaptureDelete:
		var d wire.CaptureDelete
		if err := m.Into(&d); err != nil {
			return err
		}
		b.post(ctx, func() { b.deleteCapture(a, d) })
	case wire.TypeCaptureSync:
		b.post(ctx, func() { b.prune(a) })
	case wire.TypeSettings:
		var s wire.Settings
		if err := m.Into(&s); err != nil {
			return err
		}
		b.post(ctx, func() { b.drain = s.Drain; b.setExceptions(s.Exceptions) })
	case wire.TypeStatsRequest:
		var r wire.Request
		if err := m.Into(&r); err != nil {
			return err
		}
		b.post(ctx, func() { a.tell(wire.TypeStats, b.stats(r.ID)) })
	case wire.TypeHandover:
		return b.handOver(ctx, a.conn)
	default:
		return fmt.Errorf("serve agent: %w (message %d is not the agent's to send)", wire.ErrMalform, m.Type)
	}
	return nil
}

func (a *agentConn) update(ctx context.Context, m wire.Message, fds []int) error {
	var u wire.CaptureUpdate
	if err := m.Into(&u); err != nil {
		wire.CloseFDs(fds)
		return err
	}
	if len(fds) > 1 {
		wire.CloseFDs(fds)
		return fmt.Errorf("serve agent: %w (%d descriptors with a capture)", wire.ErrMalform, len(fds))
	}
	var given *os.File
	if len(fds) == 1 {
		given = os.NewFile(uintptr(fds[0]), "netns of pod "+u.UID)
	}
	if !a.b.post(ctx, func() { a.b.updateCapture(a, u.Capture, given) }) && given != nil {
		given.Close()
	}
	return nil
}
