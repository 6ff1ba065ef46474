// SPDX-License-Identifier: Apache-2.0

package inpod

import (
	"context"
	"errors"
	"fmt"
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

func (b *Broker) shrinkPools(ctx context.Context) {
	t := time.NewTicker(time.Second)
	defer t.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case now := <-t.C:
			b.forgetPools(now)
			b.mu.Lock()
			pools := slices.Collect(maps.Values(b.pools))
			b.mu.Unlock()
			for _, p := range pools {
				p.shrink(now)
			}
		}
	}
}

// forgetPools ends the pools that dials of a pod already gone have made. They would ask for sockets for ever.
func (b *Broker) forgetPools(now time.Time) {
	b.mu.Lock()
	defer b.mu.Unlock()
	for pod, p := range b.pools {
		if pod != "" && b.listeners[pod] == nil && p.unused(now) {
			delete(b.pools, pod)
			p.close()
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
