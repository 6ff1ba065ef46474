// SPDX-License-Identifier: Apache-2.0

package broker

import (
	"context"
	"sync"

	"golang.org/x/sys/unix"

	wire "github.com/warren-mesh/warren/mesh/broker"
)

// outbox sends messages of the loop over a connection, so that no peer can hold the loop up.
type outbox struct {
	conn  *wire.Conn
	queue chan outgoing

	mu    sync.Mutex // between put and drop
	ended bool       // nobody takes from the queue any more
}

type outgoing struct {
	t    wire.Type
	body any
	fd   int // the outbox's own, -1 without
}

func newOutbox(c *wire.Conn) *outbox {
	return &outbox{conn: c, queue: make(chan outgoing, 4096)}
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
	if o.ended {
		m.close()
		return
	}
	select {
	case o.queue <- m:
	default:
		m.close()
		o.conn.Close() // its reader ends the connection; what it missed is sent again after the next Hello
	}
}

func (m outgoing) close() {
	if m.fd >= 0 {
		unix.Close(m.fd)
	}
}

// run sends until ctx ends or the peer does not take a message in time.
func (o *outbox) run(ctx context.Context) error {
	defer o.drop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case m := <-o.queue:
			var err error
			if m.fd >= 0 {
				err = o.conn.Send(m.t, m.body, m.fd)
			} else {
				err = o.conn.Send(m.t, m.body)
			}
			m.close()
			if err != nil {
				return err
			}
		}
	}
}

func (o *outbox) drop() {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.ended = true
	for {
		select {
		case m := <-o.queue:
			m.close()
		default:
			return
		}
	}
}
