// SPDX-License-Identifier: Apache-2.0

package zds

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"
	"time"

	"github.com/warren-mesh/warren/mesh/retry"
)

const (
	minBackoff = 10 * time.Millisecond
	maxBackoff = 15 * time.Second
)

// Handler is what a ztunnel does with the pods it is told of. Calls come one at a time.
type Handler interface {
	// Add begins to serve a pod, or takes note that it is announced again. An error's text goes to the
	// agent, which announces the pod again after 5 s. The agent waits 10 s for the answer, so what takes
	// longer belongs elsewhere. The handler closes w.Netns.
	Add(w Workload) error
	// Del ends serving a pod, which may be one it could not add.
	Del(uid string)
	// Synced: the pods added and not deleted are all there are. It comes once for each connection.
	Synced()
}

// ClientConfig configures a Client. The zero value is usable.
type ClientConfig struct {
	// Version to speak; zero means WarrenV1.
	Version Version
	// MaxBackoff is the longest pause between attempts to connect; zero means 15 s.
	MaxBackoff time.Duration
	// Log; nil discards.
	Log *slog.Logger
}

// Client is the ztunnel's side. While no agent is connected the ztunnel goes on with the pods it has; what
// the next agent's snapshot lacks is then deleted.
type Client struct {
	cfg  ClientConfig
	pods map[string]bool // what the handler has
}

// NewClient returns a client.
func NewClient(cfg ClientConfig) *Client {
	if cfg.Version == 0 {
		cfg.Version = WarrenV1
	}
	if cfg.MaxBackoff == 0 {
		cfg.MaxBackoff = maxBackoff
	}
	if cfg.Log == nil {
		cfg.Log = slog.New(slog.DiscardHandler)
	}
	return &Client{cfg: cfg, pods: make(map[string]bool)}
}

// Run serves h from the agents that dial reaches, one after the other, until ctx ends, and returns its
// error. dial returns a *net.UnixConn of SOCK_SEQPACKET. Run is called once.
func (c *Client) Run(ctx context.Context, dial func(context.Context) (net.Conn, error), h Handler) error {
	for failures := 0; ; failures++ {
		heard, err := c.session(ctx, dial, h)
		if ctx.Err() != nil {
			return ctx.Err()
		}
		if heard {
			failures = 0
		}
		wait := retry.Delay(failures, minBackoff, c.cfg.MaxBackoff)
		c.cfg.Log.Warn("connection to the agent lost", "err", err, "retry", wait)
		if err := retry.Wait(ctx, wait); err != nil {
			return err
		}
	}
}

// session runs one connection and reports whether the agent said anything on it.
func (c *Client) session(ctx context.Context, dial func(context.Context) (net.Conn, error), h Handler) (bool, error) {
	nc, err := dial(ctx)
	if err != nil {
		return false, fmt.Errorf("dial agent: %w", err)
	}
	defer nc.Close()
	conn, ok := nc.(*net.UnixConn)
	if !ok {
		return false, fmt.Errorf("dial agent: got a %T (want a seqpacket unix socket)", nc)
	}
	defer context.AfterFunc(ctx, func() { conn.Close() })()
	if err := writePacket(conn, helloMessage(c.cfg.Version), nil); err != nil {
		return false, fmt.Errorf("send hello: %w", err)
	}
	c.cfg.Log.Info("connected to the agent")
	stale := make(map[string]bool, len(c.pods)) // not announced on this connection
	for uid := range c.pods {
		stale[uid] = true
	}
	for heard := false; ; heard = true {
		r, err := c.read(conn)
		if err != nil {
			return heard, fmt.Errorf("read request: %w", err)
		}
		if err := writePacket(conn, ackMessage(c.handle(r, stale, h)), nil); err != nil {
			return heard, fmt.Errorf("send ack: %w", err)
		}
	}
}

// read returns the next request; only an add to a V1 client comes with a file.
func (c *Client) read(conn *net.UnixConn) (request, error) {
	b, files, err := readPacket(conn)
	if err != nil {
		return request{}, err
	}
	r, err := decodeRequest(b)
	if err == nil {
		err = c.attach(&r, files)
	}
	if err != nil {
		closeAll(files)
	}
	return r, err
}

func (c *Client) attach(r *request, files []*os.File) error {
	want := 0
	if r.kind == kindAdd && c.cfg.Version == V1 {
		want = 1
	}
	if len(files) != want {
		return fmt.Errorf("%w: want %d, got %d", ErrDescriptors, want, len(files))
	}
	if want == 1 {
		r.workload.Netns = files[0]
	}
	return nil
}

// handle does what the agent asks. stale is empty once the snapshot ended.
func (c *Client) handle(r request, stale map[string]bool, h Handler) error {
	uid := r.workload.UID
	switch r.kind {
	case kindAdd:
		delete(stale, uid)
		c.pods[uid] = true
		return h.Add(r.workload)
	case kindKeep:
		if !c.pods[uid] {
			return errors.New("pod to keep is unknown")
		}
		delete(stale, uid)
	case kindDel:
		delete(stale, uid)
		if !c.pods[uid] {
			return nil
		}
		delete(c.pods, uid)
		h.Del(uid)
	case kindSnapshotSent:
		for uid := range stale {
			delete(c.pods, uid)
			h.Del(uid)
		}
		clear(stale)
		h.Synced()
	}
	return nil
}
