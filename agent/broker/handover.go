// SPDX-License-Identifier: Apache-2.0

package broker

import (
	"context"
	"errors"
	"fmt"
	"time"

	"golang.org/x/sys/unix"

	wire "github.com/warren-mesh/warren/mesh/broker"
)

// errHandedOver ends a broker that another one took over from.
var errHandedOver = errors.New("handed over to another broker")

// handOver gives a newcomer the listeners and ends this broker's work. From the first of them on the loop stands
// still: nothing may change any more.
func (b *Broker) handOver(ctx context.Context, c *wire.Conn) error {
	done := make(chan error, 1)
	ok := b.post(ctx, func() {
		err := b.sendAll(c)
		if err == nil {
			b.persist(time.Now())
			b.stop(errHandedOver)
		}
		done <- err
	})
	if !ok {
		return errors.New("hand over: this broker is ending")
	}
	if err := <-done; err != nil {
		return fmt.Errorf("hand over: %w", err)
	}
	return nil
}

func (b *Broker) sendAll(c *wire.Conn) error {
	for _, p := range b.pods {
		for k, l := range p.listeners {
			if l == nil {
				continue
			}
			m := wire.ListenerMessage{Pod: p.want.UID, Kind: wire.Kind(k), Cookie: l.cookie}
			if err := c.Send(wire.TypeListener, m, l.fd); err != nil {
				return err
			}
		}
	}
	return c.Send(wire.TypeListenersDone, wire.Empty{})
}

// askHandover asks the broker that holds the lock. The socket belongs to root, or it is not asked.
func askHandover(ctx context.Context, dir, gen string) ([]handedListener, error) {
	paths, err := wire.SocketPaths(dir, "broker", "")
	if err != nil {
		return nil, err
	}
	err = errors.New("it has no socket")
	for _, p := range paths {
		var c *wire.Conn
		if c, err = wire.Dial(ctx, p); err != nil {
			continue
		}
		var handed []handedListener
		handed, err = takeOver(ctx, c, gen)
		c.Close()
		if err == nil {
			return handed, nil
		}
	}
	return nil, fmt.Errorf("ask the other broker to hand over: %w", err)
}

func takeOver(ctx context.Context, c *wire.Conn, gen string) ([]handedListener, error) {
	ctx, cancel := context.WithTimeout(ctx, wire.WriteTimeout)
	defer cancel()
	defer context.AfterFunc(ctx, func() { c.Close() })()
	if peer, err := c.Peer(); err != nil || peer.Uid != 0 {
		return nil, fmt.Errorf("not root's socket (%w)", errors.Join(err, unix.EPERM))
	}
	if err := c.Send(wire.TypeHello, wire.Hello{Role: "broker", Generation: gen}); err != nil {
		return nil, err
	}
	m, fds, err := c.Recv()
	wire.CloseFDs(fds)
	if err == nil && m.Type != wire.TypeHello {
		err = fmt.Errorf("%w (message %d)", wire.ErrMalform, m.Type)
	}
	if err != nil {
		return nil, err
	}
	if err := c.Send(wire.TypeHandover, wire.Empty{}); err != nil {
		return nil, err
	}
	return receiveListeners(c, nil)
}
