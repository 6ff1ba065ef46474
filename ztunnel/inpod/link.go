// SPDX-License-Identifier: Apache-2.0

package inpod

import (
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"net"
	"slices"

	"golang.org/x/sys/unix"

	"github.com/warren-mesh/warren/mesh/broker"
)

// serve speaks to one broker until it ends. The one that came last is asked for things; earlier ones may still
// send what they were asked for.
func (b *Broker) serve(ctx context.Context, c *broker.Conn) {
	defer c.Close()
	defer context.AfterFunc(ctx, func() { c.Close() })()
	if u, err := c.Peer(); err != nil || u.Uid != b.uid {
		b.log.Error("refused a connection to the broker socket", "peer", u, "err", err, "want_uid", b.uid)
		return
	}
	if err := b.greet(c); err != nil {
		b.log.Error("broker refused", "err", err)
		return
	}
	b.attach(c)
	defer b.detach(c)
	b.log.Info("broker connected")
	for {
		m, fds, err := c.Recv()
		if errors.Is(err, broker.ErrTruncate) {
			b.log.Error("sockets from the broker were lost", "err", err)
		} else if err != nil {
			if !errors.Is(err, io.EOF) {
				b.log.Error("broker connection", "err", err)
			}
			b.log.Info("broker gone; listeners and free sockets stay usable")
			return
		}
		if err := b.handle(m, fds); err != nil {
			b.log.Error("broker connection", "err", err)
			return
		}
	}
}

// greet exchanges versions and hands back every listener held.
func (b *Broker) greet(c *broker.Conn) error {
	m, fds, err := c.Recv()
	broker.CloseFDs(fds)
	if err != nil {
		return fmt.Errorf("greet broker: %w", err)
	}
	if m.Type != broker.TypeHello {
		return fmt.Errorf("greet broker: %w (message %d)", broker.ErrMalform, m.Type)
	}
	if err := c.Send(broker.TypeHello, broker.Hello{Role: "ztunnel", Generation: b.gen}); err != nil {
		return err
	}
	for _, l := range b.held() {
		err := l.withFD(func(fd int) error { return handBack(c, l, fd) })
		if err != nil && !errors.Is(err, net.ErrClosed) {
			return err
		}
	}
	return c.Send(broker.TypeListenersDone, broker.Empty{})
}

// handBack passes a listener's descriptor, or names it: another pod with a process of the same user must not keep a
// new broker from getting to it.
func handBack(c *broker.Conn, l *Listener, fd int) error {
	m := broker.ListenerMessage{Pod: l.pod, Kind: l.kind, Cookie: l.cookie}
	err := c.Send(broker.TypeListener, m, fd)
	if errors.Is(err, unix.ETOOMANYREFS) {
		m.Number = fd
		err = c.Send(broker.TypeListener, m)
	}
	return err
}

func (b *Broker) held() []*Listener {
	b.mu.Lock()
	defer b.mu.Unlock()
	var out []*Listener
	for _, ls := range b.listeners {
		for _, l := range ls {
			if l != nil {
				out = append(out, l)
			}
		}
	}
	return out
}

func (b *Broker) attach(c *broker.Conn) {
	b.mu.Lock()
	b.links[c] = true
	b.setCurrent(c)
	b.mu.Unlock()
	b.askAgain()
}

// askAgain has every pool ask the current broker, which knows of no earlier request.
func (b *Broker) askAgain() {
	b.mu.Lock()
	pools := slices.Collect(maps.Values(b.pools))
	b.mu.Unlock()
	for _, p := range pools {
		p.reconnected()
	}
}

// setCurrent names the broker to ask; the caller holds mu. Questions to another are asked again.
func (b *Broker) setCurrent(c *broker.Conn) {
	b.current = c
	close(b.changed)
	b.changed = make(chan struct{})
	for id, ch := range b.asked {
		ch <- reply{err: errAskAgain, fd: -1}
		delete(b.asked, id)
	}
}

func (b *Broker) detach(c *broker.Conn) {
	b.mu.Lock()
	delete(b.links, c)
	was := b.current == c
	if was {
		// Another may have connected before this one and still be there: of two that connect at once, either may
		// come second here.
		var other *broker.Conn
		for l := range b.links {
			other = l
		}
		b.setCurrent(other)
	}
	b.mu.Unlock()
	if was {
		b.askAgain()
	}
}
