// SPDX-License-Identifier: Apache-2.0

package broker

import (
	"fmt"

	"golang.org/x/sys/unix"

	wire "github.com/warren-mesh/warren/mesh/broker"
)

// receiveListeners reads listeners up to the end of the list.
func receiveListeners(c *wire.Conn) ([]handedListener, error) {
	var out []handedListener
	fail := func(err error) ([]handedListener, error) {
		for _, h := range out {
			unix.Close(h.fd)
		}
		return nil, fmt.Errorf("receive listeners: %w", err)
	}
	for {
		m, fds, err := c.Recv()
		if err != nil {
			return fail(err)
		}
		if m.Type == wire.TypeListenersDone {
			wire.CloseFDs(fds)
			return out, nil
		}
		var lm wire.ListenerMessage
		if m.Type != wire.TypeListener || len(fds) != 1 {
			err = fmt.Errorf("%w (message %d, %d descriptors)", wire.ErrMalform, m.Type, len(fds))
		} else {
			err = m.Into(&lm)
		}
		if err != nil {
			wire.CloseFDs(fds)
			return fail(err)
		}
		out = append(out, handedListener{message: lm, fd: fds[0]})
		if len(out) > maxHanded {
			return fail(wire.ErrTooLong)
		}
	}
}

const maxHanded = 3 * 1024 // listeners; far over the pods of any node
