// SPDX-License-Identifier: Apache-2.0

package inpod

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"maps"
	"net"
	"path/filepath"
	"slices"
	"sync"
	"time"

	"github.com/warren-mesh/warren/mesh/broker"
)

// DefaultWait bounds how long a dial, a unix connection or a file waits for the broker.
const DefaultWait = 5 * time.Second

// Broker implements Sockets and Files with what the privileged broker passes over a unix socket. Pools and
// listeners stay usable while no broker is there; a new one gets the listeners handed back.
type Broker struct {
	lis    *net.UnixListener
	gen    string
	wait   time.Duration
	uid    uint32 // of the broker
	log    *slog.Logger
	events *eventQueue

	mu        sync.Mutex
	listeners map[string]*[broker.Kinds]*Listener
	pools     map[string]*pool
	links     map[*broker.Conn]bool
	current   *broker.Conn  // asked for things; nil while there is none
	changed   chan struct{} // closed when current becomes another
	nextID    uint64
	asked     map[uint64]chan reply
}

// reply is an answer to a NameRequest; fd is -1 without one.
type reply struct {
	msg broker.NameReply
	fd  int
	err error
}

// Option changes a Broker from its defaults.
type Option func(*Broker)

// WithLogger sets the logger. Default: slog.Default().
func WithLogger(l *slog.Logger) Option { return func(b *Broker) { b.log = l } }

// WithWait sets how long to wait for the broker. Default: DefaultWait.
func WithWait(d time.Duration) Option { return func(b *Broker) { b.wait = d } }

// WithBrokerUID sets the user the broker runs as. Default: 0.
func WithBrokerUID(uid uint32) Option { return func(b *Broker) { b.uid = uid } }

// Listen makes ztunnel's only own socket, ztunnel-<gen>.sock in dir, where brokers connect. To be called before
// the process seals itself. gen must differ from the one of any other living ztunnel.
func Listen(dir, gen string, opts ...Option) (*Broker, error) {
	b := &Broker{
		gen: gen, wait: DefaultWait, log: slog.Default(), events: newEventQueue(),
		listeners: map[string]*[broker.Kinds]*Listener{}, pools: map[string]*pool{},
		links: map[*broker.Conn]bool{}, changed: make(chan struct{}), asked: map[uint64]chan reply{},
	}
	for _, o := range opts {
		o(b)
	}
	l, err := broker.Listen(filepath.Join(dir, broker.SocketName("ztunnel", gen, "")))
	if err != nil {
		return nil, fmt.Errorf("wait for broker: %w", err)
	}
	b.lis = l
	return b, nil
}

// Events delivers the pods' listeners; see Sockets.
func (b *Broker) Events() <-chan Event { return b.events.out }

// Connected reports whether a broker is there.
func (b *Broker) Connected() bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.current != nil
}

// Run accepts brokers until ctx ends, and then closes every listener and free socket. It returns nil then.
func (b *Broker) Run(ctx context.Context) error {
	go b.events.run(ctx)
	go b.shrinkPools(ctx)
	defer b.closeAll()
	defer context.AfterFunc(ctx, func() { b.lis.Close() })()
	var wg sync.WaitGroup
	defer wg.Wait()
	for {
		uc, err := b.lis.AcceptUnix()
		if err != nil {
			if ctx.Err() != nil {
				return nil
			}
			if errors.Is(err, net.ErrClosed) {
				return fmt.Errorf("accept broker: %w", err)
			}
			b.log.Error("accept broker", "err", err)
			select { // EMFILE and the like: give others time to close something
			case <-time.After(50 * time.Millisecond):
			case <-ctx.Done():
			}
			continue
		}
		wg.Go(func() { b.serve(ctx, broker.NewConn(uc)) })
	}
}

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
		err := l.withFD(func(fd int) error {
			return c.Send(broker.TypeListener, broker.ListenerMessage{Pod: l.pod, Kind: l.kind, Cookie: l.cookie}, fd)
		})
		if err != nil && !errors.Is(err, net.ErrClosed) {
			return err
		}
	}
	return c.Send(broker.TypeListenersDone, broker.Empty{})
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

func (b *Broker) shrinkPools(ctx context.Context) {
	t := time.NewTicker(time.Second)
	defer t.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case now := <-t.C:
			b.mu.Lock()
			pools := slices.Collect(maps.Values(b.pools))
			b.mu.Unlock()
			for _, p := range pools {
				p.shrink(now)
			}
		}
	}
}

func (b *Broker) closeAll() {
	b.mu.Lock()
	pools := slices.Collect(maps.Values(b.pools))
	for _, ls := range b.listeners {
		closeListeners(ls, broker.Kinds)
	}
	clear(b.listeners)
	b.mu.Unlock()
	for _, p := range pools {
		p.close()
	}
}
