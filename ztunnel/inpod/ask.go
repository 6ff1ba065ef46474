// SPDX-License-Identifier: Apache-2.0

package inpod

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"slices"
	"time"

	"github.com/warren-mesh/warren/mesh/broker"
)

// errAskAgain ends a question whose broker went away.
var errAskAgain = errors.New("broker went away")

// askSockets asks the current broker for sockets and reports whether there was one. A connection that can't be
// written any more ends by itself.
func (b *Broker) askSockets(pod string, n int) bool {
	b.mu.Lock()
	c := b.current
	b.mu.Unlock()
	if c == nil {
		return false
	}
	if err := c.Send(broker.TypeSocketsRequest, broker.SocketsRequest{Pod: pod, Count: n}); err != nil {
		c.Close()
		return false
	}
	return true
}

// Drained tells the broker that no connection of a draining pod is left.
func (b *Broker) Drained(pod string) {
	b.mu.Lock()
	c := b.current
	b.mu.Unlock()
	if c == nil {
		return // the drain deadline ends it
	}
	if err := c.Send(broker.TypePodDrained, broker.PodMessage{Pod: pod}); err != nil {
		c.Close()
	}
}

// Reopen asks the broker for a pod's listeners again if any was closed here by itself, not at the broker's word: that holds
// the pod for served, and would not send them on its own. They come as events. While there is no broker nothing is asked: the
// next one sends all.
func (b *Broker) Reopen(pod string) {
	b.mu.Lock()
	c, closed := b.current, false
	if ls := b.listeners[pod]; ls != nil {
		closed = slices.ContainsFunc(ls[:], func(l *Listener) bool { return l != nil && l.socket.closed.Load() })
	}
	b.mu.Unlock()
	if c == nil || !closed {
		return
	}
	if err := c.Send(broker.TypeListenersRequest, broker.PodMessage{Pod: pod}); err != nil {
		c.Close()
	}
}

// Unix connects to the agent's newest socket of that name; see Sockets.
func (b *Broker) Unix(ctx context.Context, name string) (net.Conn, error) {
	r, err := b.ask(ctx, broker.TypeUnixRequest, name)
	if err != nil {
		return nil, fmt.Errorf("connect to unix socket %q: %w", name, err)
	}
	if r.fd < 0 {
		return nil, fmt.Errorf("connect to unix socket %q: broker: %s", name, r.msg.Error)
	}
	f := os.NewFile(uintptr(r.fd), name)
	defer f.Close()
	c, err := net.FileConn(f)
	if err != nil {
		return nil, fmt.Errorf("connect to unix socket %q: %w", name, err)
	}
	return c, nil
}

// ReadFile returns a file's bytes; see Files.
func (b *Broker) ReadFile(ctx context.Context, name string) ([]byte, error) {
	r, err := b.ask(ctx, broker.TypeFileRequest, name)
	if err != nil {
		return nil, fmt.Errorf("read file %q: %w", name, err)
	}
	switch {
	case r.msg.Missing:
		return nil, fmt.Errorf("read file %q: broker: %w (%s)", name, fs.ErrNotExist, r.msg.Error)
	case r.msg.Error != "":
		return nil, fmt.Errorf("read file %q: broker: %s", name, r.msg.Error)
	}
	return r.msg.Data, nil
}

// ask puts a question to the broker, to its successor if it goes away, for the bounded time.
func (b *Broker) ask(ctx context.Context, t broker.Type, name string) (reply, error) {
	ctx, cancel := context.WithTimeoutCause(ctx, b.wait, fmt.Errorf("%w within %v", ErrNoSocket, b.wait))
	defer cancel()
	for {
		c, id, answer, err := b.question(ctx)
		if err != nil {
			return reply{}, err
		}
		if err := c.Send(t, broker.NameRequest{ID: id, Name: name}); err != nil {
			b.forget(id)
			c.Close()
			select {
			case <-time.After(10 * time.Millisecond):
			case <-ctx.Done():
				return reply{}, context.Cause(ctx)
			}
			continue
		}
		select {
		case r := <-answer:
			if r.err == nil {
				return r, nil
			}
		case <-ctx.Done():
			b.forget(id)
			select { // an answer that crossed
			case r := <-answer:
				if r.fd >= 0 {
					broker.CloseFDs([]int{r.fd})
				}
			default:
			}
			return reply{}, context.Cause(ctx)
		}
	}
}

// question waits for a broker and notes a new question to it.
func (b *Broker) question(ctx context.Context) (*broker.Conn, uint64, chan reply, error) {
	for {
		b.mu.Lock()
		if c := b.current; c != nil {
			b.nextID++
			id, ch := b.nextID, make(chan reply, 1)
			b.asked[id] = ch
			b.mu.Unlock()
			return c, id, ch, nil
		}
		changed := b.changed
		b.mu.Unlock()
		select {
		case <-changed:
		case <-ctx.Done():
			return nil, 0, nil, context.Cause(ctx)
		}
	}
}

func (b *Broker) forget(id uint64) {
	b.mu.Lock()
	defer b.mu.Unlock()
	delete(b.asked, id)
}
