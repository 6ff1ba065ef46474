// SPDX-License-Identifier: Apache-2.0

package broker

import (
	"fmt"

	"golang.org/x/sys/unix"

	wire "github.com/warren-mesh/warren/mesh/broker"
)

// receiveListeners reads listeners up to the end of the list. fetch, where there is one, gets at a descriptor that only
// its number came of.
func receiveListeners(c *wire.Conn, fetch func(number int) (int, error)) ([]handedListener, error) {
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
		h, err := receiveListener(m, fds, fetch)
		if err != nil {
			wire.CloseFDs(fds)
			return fail(err)
		}
		out = append(out, h)
		if len(out) > maxHanded {
			return fail(wire.ErrTooLong)
		}
	}
}

// receiveListener leaves the descriptors to the caller when it fails.
func receiveListener(m wire.Message, fds []int, fetch func(number int) (int, error)) (handedListener, error) {
	var h handedListener
	if m.Type != wire.TypeListener || len(fds) > 1 {
		return h, fmt.Errorf("%w (message %d, %d descriptors)", wire.ErrMalform, m.Type, len(fds))
	}
	if err := m.Into(&h.message); err != nil {
		return h, err
	}
	var err error
	switch {
	case len(fds) == 1:
		h.fd = fds[0]
	case h.message.Number > 0 && fetch != nil:
		h.fd, err = fetch(h.message.Number)
	default:
		err = fmt.Errorf("%w (a listener without a descriptor)", wire.ErrMalform)
	}
	return h, err
}

const maxHanded = 3 * 1024 // listeners; far over the pods of any node
