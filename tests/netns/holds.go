// SPDX-License-Identifier: Apache-2.0

package netns

import (
	"io"
	"net"
	"sync"
	"weak"
)

// holds remembers the sockets of a pod that this process holds, so that they end with the pod, as a container's do.
// Connections are remembered weakly: a test makes tens of thousands.
type holds struct {
	mu        sync.Mutex
	conns     []weak.Pointer[net.TCPConn]
	listeners []io.Closer
}

func (h *holds) conn(c net.Conn) net.Conn {
	t, ok := c.(*net.TCPConn)
	h.mu.Lock()
	defer h.mu.Unlock()
	if !ok {
		h.listeners = append(h.listeners, c)
		return c
	}
	if len(h.conns) >= 1024 && len(h.conns)&(len(h.conns)-1) == 0 { // now and then drop what was collected
		kept := h.conns[:0]
		for _, w := range h.conns {
			if w.Value() != nil {
				kept = append(kept, w)
			}
		}
		h.conns = kept
	}
	h.conns = append(h.conns, weak.Make(t))
	return c
}

func (h *holds) closer(c io.Closer) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.listeners = append(h.listeners, c)
}

func (h *holds) close() {
	h.mu.Lock()
	defer h.mu.Unlock()
	for _, l := range h.listeners {
		l.Close()
	}
	for _, w := range h.conns {
		if c := w.Value(); c != nil {
			c.Close()
		}
	}
	h.conns, h.listeners = nil, nil
}

// Listener is a pod's listening TCP socket; what it accepts belongs to the pod too.
type Listener struct {
	*net.TCPListener
	holds *holds
}

// Accept waits for the next connection.
func (l *Listener) Accept() (net.Conn, error) {
	c, err := l.TCPListener.Accept()
	if err != nil {
		return nil, err
	}
	return l.holds.conn(c), nil
}

var _ net.Listener = (*Listener)(nil)
