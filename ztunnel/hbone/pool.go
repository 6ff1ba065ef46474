// SPDX-License-Identifier: Apache-2.0

package hbone

import (
	"cmp"
	"context"
	"crypto/tls"
	"errors"
	"net/netip"
	"sync"
	"time"

	"github.com/warren-mesh/warren/ztunnel/record"
)

// Key says which connections are alike. The pod is part of it: pods never share, not even those of one service
// account, for policy at the far end sees the tunnel's peer.
type Key struct {
	PodUID      string
	Source      string // SPIFFE id the connection speaks with
	Expected    string // SPIFFE ids the server may have, in a form that is equal for equal sets
	Destination netip.AddrPort
}

// PoolConfig is what a Pool can be told. The zero value is what production uses.
type PoolConfig struct {
	Config
	// IdleTimeout is how long a connection without streams is kept; default 5 min.
	IdleTimeout time.Duration
	// DialTimeout bounds one dial, TLS handshake included; default 15 s.
	DialTimeout time.Duration
	// PodBudget gives the budget that all connections of a pod share; nil leaves it to Config.
	PodBudget func(podUID string) *Budget
	// Trusted judges a connection by what its handshake proved, when it is made and in Recheck; an error ends it.
	// nil: all are good. It is called with the pool locked.
	Trusted func(Key, tls.ConnectionState) error
	// Now is the clock; default time.Now.
	Now func() time.Time
}

// Pool keeps client connections and opens streams on them. Safe for concurrent use. Close it with CloseAll.
type Pool struct {
	config PoolConfig
	ctx    context.Context // ends dials under way
	stop   context.CancelCauseFunc

	mu      sync.Mutex
	entries map[Key]*entry
	closed  bool
	sweeper *time.Timer
}

// entry is what the pool has for one key; guarded by Pool.mu.
type entry struct {
	conns   []*pooled
	dialing *dialing
}

type pooled struct {
	client *ClientConn
	idle   time.Time // since when it has no streams; zero while it has
}

// dialing is one dial and those who wait for it.
type dialing struct {
	done chan struct{}
	err  error
}

// Dial makes the connection for a key: TCP, TLS, and the checks of the peer's identity.
type Dial func(ctx context.Context) (record.Conn, error)

// NewPool returns an empty pool.
func NewPool(config PoolConfig) *Pool {
	if config.IdleTimeout == 0 {
		config.IdleTimeout = 5 * time.Minute
	}
	if config.DialTimeout == 0 {
		config.DialTimeout = 15 * time.Second
	}
	if config.Now == nil {
		config.Now = time.Now
	}
	ctx, stop := context.WithCancelCause(context.Background())
	return &Pool{config: config, ctx: ctx, stop: stop, entries: map[Key]*entry{}}
}

// Open opens a stream on a connection of that key with room for it; without one it dials. At most one dial of a
// key is under way, and its result, failure too, is shared by all who wait; it outlives the ctx of whoever began
// it. A pooled connection that is lost before it answers is replaced once. Errors are those of dial and of
// ClientConn.Open.
func (p *Pool) Open(ctx context.Context, key Key, req Request, dial Dial) (*Stream, error) {
	waited := false
	for tries := 0; tries < maxTries; {
		client, wait, mine, err := p.find(key, dial)
		if err != nil {
			return nil, err
		}
		if client == nil {
			if mine {
				tries++
			}
			select {
			case <-wait.done:
			case <-ctx.Done():
				return nil, context.Cause(ctx)
			}
			if wait.err != nil {
				return nil, wait.err
			}
			waited = true
			continue
		}
		s, err := client.Open(ctx, req)
		if err == nil || !elsewhere(err) && (waited || !stale(err)) {
			return s, err
		}
		if !errors.Is(err, ErrFull) {
			tries++
		}
	}
	return nil, ErrFull
}

// maxTries bounds how many dials one Open begins in vain, and how many connections turn it away. That others were
// faster does not count.
const maxTries = 8

// elsewhere reports whether the server certainly did nothing for the request, so that another connection may.
func elsewhere(err error) bool {
	var reset *ResetError
	if errors.As(err, &reset) {
		return reset.Code == CodeRefusedStream && !reset.Local
	}
	return errors.Is(err, ErrFull) || errors.Is(err, ErrGoingAway)
}

// stale reports whether a connection from the pool turned out to be dead before it answered: no byte of the
// application was on its way, so one that is dialled now may be tried.
func stale(err error) bool {
	return errors.Is(err, ErrConnectionLost) && !errors.Is(err, errClosed)
}

// find returns a connection with room, or the dial to wait for, which it starts if need be.
func (p *Pool) find(key Key, dial Dial) (c *ClientConn, wait *dialing, mine bool, err error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.closed {
		return nil, nil, false, ErrPoolClosed
	}
	e := p.entries[key]
	if e == nil {
		e = &entry{}
		p.entries[key] = e
	}
	for _, c := range e.conns {
		if c.client.conn.hasRoom() {
			c.idle = time.Time{}
			return c.client, nil, false, nil
		}
	}
	if e.dialing == nil {
		e.dialing = &dialing{done: make(chan struct{})}
		mine = true
		go p.dial(key, e, e.dialing, dial)
	}
	return nil, e.dialing, mine, nil
}

// hasRoom reports whether a stream may be asked for now. A connection whose server has not spoken yet counts as
// having room: Open waits for it to speak.
func (c *conn) hasRoom() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.err != nil || c.away || c.nextID > maxID {
		return false
	}
	select {
	case <-c.settled:
		return len(c.streams) < int(c.peerMax)
	default:
		return true
	}
}

func (p *Pool) dial(key Key, e *entry, d *dialing, dial Dial) {
	ctx, cancel := context.WithTimeout(p.ctx, p.config.DialTimeout)
	defer cancel()
	rc, err := dial(ctx)
	var client *ClientConn
	if err == nil {
		config := p.config.Config
		if p.config.PodBudget != nil {
			config.Budget = p.config.PodBudget(key.PodUID)
		}
		client, err = newClient(ctx, rc, config, func() { p.changed(key) })
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if err == nil && d.err == nil && p.config.Trusted != nil { // what is trusted may have changed since the handshake
		err = p.config.Trusted(key, rc.ConnectionState())
	}
	if client != nil && (d.err != nil || err != nil) {
		go client.end(cmp.Or(err, error(errClosed)))
	}
	if d.err != nil { // closed meanwhile
		return
	}
	e.dialing = nil
	if d.err = err; err == nil {
		e.conns = append(e.conns, &pooled{client: client})
		p.schedule()
	}
	p.tidy(key, e)
	close(d.done)
}
