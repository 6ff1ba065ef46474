// SPDX-License-Identifier: Apache-2.0

package broker

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"slices"
	"sync"
	"time"

	"github.com/warren-mesh/warren/mesh/latest"
)

// ErrNotConnected means that no broker listens now.
var ErrNotConnected = errors.New("no broker connected")

// Client is the agent's side: it holds what should be captured and tells it to the newest broker, again and
// whole after each reconnect. Safe for concurrent use.
type Client struct {
	dir    string
	log    *slog.Logger
	states *latest.Queue[string, State]

	mu         sync.Mutex
	captures   map[string]Capture
	deleted    map[string]bool // while not synced: a broker that is told everything again must hear of them too
	netns      map[string]*os.File
	settings   *Settings // nil until told
	synced     bool
	conn       *Conn // nil while not connected
	dirty      map[string]bool
	dirtyOther bool
	wake       chan struct{}
	nextID     uint64
	asked      map[uint64]chan Stats
}

// NewClient makes a client for the broker sockets below dir. Nothing happens before Run.
func NewClient(dir string, log *slog.Logger) *Client {
	return &Client{
		dir: dir, log: log, states: latest.New(func(s State) string { return s.UID }),
		captures: map[string]Capture{}, deleted: map[string]bool{}, netns: map[string]*os.File{},
		dirty: map[string]bool{}, wake: make(chan struct{}, 1), asked: map[uint64]chan Stats{},
	}
}

// Update adds or changes a capture; the newest word counts.
func (c *Client) Update(p Capture) { c.update(p, nil) }

// UpdateNetns is Update for a pod whose network namespace the caller holds (the CNI plugin opened it). The
// client owns the file from here on.
func (c *Client) UpdateNetns(p Capture, netns *os.File) { c.update(p, netns) }

func (c *Client) update(p Capture, netns *os.File) {
	c.mu.Lock()
	defer c.mu.Unlock()
	p.Addresses = slices.Clone(p.Addresses)
	c.captures[p.UID] = p
	delete(c.deleted, p.UID)
	if netns != nil {
		c.closeNetns(p.UID)
		c.netns[p.UID] = netns
	}
	c.dirty[p.UID] = true
	c.poke()
}

// Delete ends a capture: new connections go direct at once, tunnelled ones live to their end or the broker's
// drain deadline. Deleting an unknown uid is told to the broker too: it may know it from before.
func (c *Client) Delete(uid string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	delete(c.captures, uid)
	if !c.synced {
		c.deleted[uid] = true
	}
	c.closeNetns(uid)
	c.dirty[uid] = true
	c.poke()
}

// ReleaseNetns closes the namespace that UpdateNetns took over, when the sandbox it was for has ended: an open one
// lives on. The capture itself stays.
func (c *Client) ReleaseNetns(uid string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.closeNetns(uid)
}

func (c *Client) closeNetns(uid string) {
	if f := c.netns[uid]; f != nil {
		f.Close()
		delete(c.netns, uid)
	}
}

// Sync says that every wanted capture was given once: from now on the broker ends those it knows beyond them.
func (c *Client) Sync() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.synced, c.dirtyOther = true, true
	clear(c.deleted) // the complete list is without them
	c.poke()
}

// Configure replaces what holds for all pods. The caller must not modify it afterwards.
func (c *Client) Configure(s Settings) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.settings, c.dirtyOther = &s, true
	c.poke()
}

// States delivers what became of captures. States of one pod not read yet are replaced by newer ones, so a
// slow reader never holds up the broker.
func (c *Client) States() <-chan State { return c.states.Out() }

// Connected reports whether a broker is there.
func (c *Client) Connected() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.conn != nil
}

// Stats asks the broker for its figures. It fails with ErrNotConnected when there is none, or it ends before
// it answers.
func (c *Client) Stats(ctx context.Context) (Stats, error) {
	c.mu.Lock()
	conn := c.conn
	c.nextID++
	id, answer := c.nextID, make(chan Stats, 1)
	if conn != nil {
		c.asked[id] = answer
	}
	c.mu.Unlock()
	if conn == nil {
		return Stats{}, ErrNotConnected
	}
	defer func() {
		c.mu.Lock()
		delete(c.asked, id)
		c.mu.Unlock()
	}()
	if err := conn.Send(TypeStatsRequest, Request{ID: id}); err != nil {
		return Stats{}, fmt.Errorf("ask broker for figures: %w", err)
	}
	select {
	case s, ok := <-answer:
		if !ok {
			return Stats{}, ErrNotConnected
		}
		return s, nil
	case <-ctx.Done():
		return Stats{}, fmt.Errorf("ask broker for figures: %w", ctx.Err())
	}
}

// poke wakes the sender; the caller holds mu.
func (c *Client) poke() {
	select {
	case c.wake <- struct{}{}:
	default:
	}
}

// Run keeps one connection to the newest broker until ctx ends, and returns nil then. It dials every 50 ms
// while there is none: the sockets are local, and every capture waits for it.
func (c *Client) Run(ctx context.Context) error {
	go c.states.Run(ctx)
	var last string
	for ctx.Err() == nil {
		err := c.connectOnce(ctx)
		if err != nil && ctx.Err() == nil && err.Error() != last {
			last = err.Error()
			c.log.Warn("no broker", "err", err)
		}
		select {
		case <-ctx.Done():
		case <-time.After(50 * time.Millisecond):
		}
	}
	return nil
}

// connectOnce serves one connection to its end.
func (c *Client) connectOnce(ctx context.Context) error {
	paths, err := SocketPaths(c.dir, "broker", "")
	if err != nil {
		return err
	}
	err = fmt.Errorf("find broker in %s: %w", c.dir, ErrNotConnected)
	for _, p := range paths {
		var conn *Conn
		if conn, err = Dial(ctx, p); err != nil {
			continue
		}
		if err = trusted(conn); err != nil {
			conn.Close()
			err = fmt.Errorf("broker at %s: %w", p, err)
			continue
		}
		c.log.Info("broker connected", "socket", p)
		return c.serve(ctx, conn)
	}
	return err
}

// trusted: ztunnel's group may make sockets in the same directory, and must not speak for the broker.
func trusted(c *Conn) error {
	peer, err := c.Peer()
	if err == nil && peer.Uid != 0 && peer.Uid != uint32(os.Geteuid()) {
		err = fmt.Errorf("refused: process %d of user %d made the socket", peer.Pid, peer.Uid)
	}
	return err
}
