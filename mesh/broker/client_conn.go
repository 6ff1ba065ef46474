// SPDX-License-Identifier: Apache-2.0

package broker

import (
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"slices"

	"golang.org/x/sys/unix"
)

// serve tells one connection everything, then what changes, and reads its answers until it ends.
func (c *Client) serve(ctx context.Context, conn *Conn) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	defer context.AfterFunc(ctx, func() { conn.Close() })()
	defer conn.Close()
	if err := conn.Send(TypeHello, Hello{Role: "agent", Generation: fmt.Sprint(os.Getpid())}); err != nil {
		return err
	}
	m, fds, err := conn.Recv()
	CloseFDs(fds)
	if err != nil {
		return fmt.Errorf("greet broker: %w", err)
	}
	if m.Type != TypeHello {
		return fmt.Errorf("greet broker: %w (message %d)", ErrMalform, m.Type)
	}
	c.attach(conn)
	defer c.detach()
	sent := make(chan error, 1)
	go func() {
		err := c.sendChanges(ctx, conn)
		conn.Close() // ends the reader too
		sent <- err
	}()
	err = c.readAnswers(conn)
	cancel()
	if serr := <-sent; serr != nil && ctx.Err() == nil {
		err = serr
	}
	if errors.Is(err, io.EOF) {
		return fmt.Errorf("broker connection: ended")
	}
	return err
}

// attach makes conn the current connection and everything known unsent.
func (c *Client) attach(conn *Conn) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.conn = conn
	clear(c.dirty) // deletions: the Sync after a resend prunes, once there is one
	for uid := range c.captures {
		c.dirty[uid] = true
	}
	for uid := range c.deleted {
		c.dirty[uid] = true
	}
	c.dirtyOther = true
	c.poke()
}

func (c *Client) detach() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.conn = nil
	for id, ch := range c.asked {
		close(ch)
		delete(c.asked, id)
	}
}

// change is one message to be sent, taken under the lock and sent outside it.
type change struct {
	t     Type
	body  any
	netns *os.File
}

// takeChanges empties the set of unsent changes: settings before captures, Sync last.
func (c *Client) takeChanges() []change {
	c.mu.Lock()
	defer c.mu.Unlock()
	var out []change
	if c.dirtyOther && c.settings != nil {
		out = append(out, change{t: TypeSettings, body: *c.settings})
	}
	for _, uid := range slices.Sorted(maps.Keys(c.dirty)) {
		if p, ok := c.captures[uid]; ok {
			out = append(out, change{t: TypeCaptureUpdate, body: CaptureUpdate{p}, netns: c.netns[uid]})
		} else {
			out = append(out, change{t: TypeCaptureDelete, body: CaptureDelete{UID: uid, Keep: true}})
		}
	}
	if c.dirtyOther && c.synced {
		out = append(out, change{t: TypeCaptureSync, body: Empty{}})
	}
	clear(c.dirty)
	c.dirtyOther = false
	return out
}

func (c *Client) sendChanges(ctx context.Context, conn *Conn) error {
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-c.wake:
		}
		for _, ch := range c.takeChanges() {
			var err error
			if ch.netns == nil {
				err = conn.Send(ch.t, ch.body)
			} else {
				err = c.sendFile(conn.Send, ch)
			}
			if err != nil {
				return err
			}
		}
	}
}

// sendFile sends a change with its namespace. Fd would make the file blocking; SyscallConn keeps it alive.
// A file closed meanwhile was replaced or deleted, and that change follows.
//
// The kernel counts descriptors on their way for all processes of a user together, and may let none travel: then the
// broker is told all the same, and finds the namespace by the pod's cgroup once a process is in it.
func (c *Client) sendFile(send func(Type, any, ...int) error, ch change) error {
	rc, err := ch.netns.SyscallConn()
	if err != nil {
		return nil
	}
	if cerr := rc.Control(func(fd uintptr) { err = send(ch.t, ch.body, int(fd)) }); cerr != nil {
		return nil
	}
	if errors.Is(err, unix.ETOOMANYREFS) {
		c.log.Warn("pod announced without its network namespace", "err", err)
		err = send(ch.t, ch.body)
	}
	return err
}

func (c *Client) readAnswers(conn *Conn) error {
	for {
		m, fds, err := conn.Recv()
		CloseFDs(fds) // the broker has none for the agent
		if err != nil {
			return err
		}
		switch m.Type {
		case TypeCaptureState:
			var s State
			if err := m.Into(&s); err != nil {
				return err
			}
			c.states.Put(s)
		case TypeStats:
			var s Stats
			if err := m.Into(&s); err != nil {
				return err
			}
			c.answer(s)
		default:
			return fmt.Errorf("broker connection: %w (message %d is not for the agent)", ErrMalform, m.Type)
		}
	}
}

func (c *Client) answer(s Stats) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if ch, ok := c.asked[s.ID]; ok {
		delete(c.asked, s.ID)
		ch <- s
	}
}
