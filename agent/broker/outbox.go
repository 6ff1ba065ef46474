// SPDX-License-Identifier: Apache-2.0

package broker

import (
	"context"
	"sync"

	"golang.org/x/sys/unix"

	wire "github.com/warren-mesh/warren/mesh/broker"
)

// outboxMost is more than a node has to say at once: three listeners and a state of each pod the kernel's maps have
// room for. Beyond it the peer does not read.
const outboxMost = 4*4096 + 64

// outbox sends messages of the loop over a connection, so that no peer can hold the loop up.
type outbox struct {
	conn *wire.Conn
	wake chan struct{} // there is something in the queue

	mu    sync.Mutex
	queue []outgoing // grows by need
	ended bool       // nobody takes from the queue any more
}

type outgoing struct {
	t    wire.Type
	body any
	fd   int // the outbox's own, -1 without
}

func newOutbox(c *wire.Conn) *outbox {
	return &outbox{conn: c, wake: make(chan struct{}, 1)}
}

// tell queues a message.
func (o *outbox) tell(t wire.Type, body any) { o.put(outgoing{t: t, body: body, fd: -1}) }

// tellFD queues a message with a copy of the descriptor.
func (o *outbox) tellFD(t wire.Type, body any, fd int) error {
	own, err := unix.FcntlInt(uintptr(fd), unix.F_DUPFD_CLOEXEC, 0)
	if err != nil {
		return err
	}
	o.put(outgoing{t: t, body: body, fd: own})
	return nil
}

func (o *outbox) put(m outgoing) {
	o.mu.Lock()
	defer o.mu.Unlock()
	switch {
	case o.ended:
		m.close()
		return
	case len(o.queue) >= outboxMost:
		m.close()
		o.conn.Close() // its reader ends the connection; what it missed is sent again after the next Hello
		return
	}
	o.queue = append(o.queue, m)
	select {
	case o.wake <- struct{}{}:
	default:
	}
}

func (m outgoing) close() {
	if m.fd >= 0 {
		unix.Close(m.fd)
	}
}

// take returns the next message, false when there is none.
func (o *outbox) take() (outgoing, bool) {
	o.mu.Lock()
	defer o.mu.Unlock()
	if len(o.queue) == 0 {
		o.queue = nil // what it grew to is not needed again soon
		return outgoing{}, false
	}
	m := o.queue[0]
	o.queue = o.queue[1:]
	return m, true
}

// run sends until ctx ends or the peer does not take a message in time.
func (o *outbox) run(ctx context.Context) error {
	defer o.drop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-o.wake:
		}
		for ctx.Err() == nil {
			m, ok := o.take()
			if !ok {
				break
			}
			if err := o.send(m); err != nil {
				return err
			}
		}
	}
}

func (o *outbox) send(m outgoing) error {
	defer m.close()
	if m.fd >= 0 {
		return o.conn.Send(m.t, m.body, m.fd)
	}
	return o.conn.Send(m.t, m.body)
}

func (o *outbox) drop() {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.ended = true
	for _, m := range o.queue {
		m.close()
	}
	o.queue = nil
}
