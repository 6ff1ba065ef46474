// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"sync"

	"github.com/warren-mesh/warren/tests/e2e/testapp/answer"
)

// ledgerSocket is abstract: it belongs to the pod's network namespace and needs no file system that can be written.
const ledgerSocket = "@warren-testapp"

// ledgerLimit bounds what is kept; what comes later is not written down.
const ledgerLimit = 100_000

// ledger is what came to the server. Safe for concurrent use.
type ledger struct {
	mu  sync.Mutex
	all []*answer.Heard
}

// hearing is one connection's line in the ledger.
type hearing struct {
	ledger *ledger
	h      *answer.Heard
	line   bool // complete
}

func (l *ledger) add(protocol string, port int, peer string) *hearing {
	h := &answer.Heard{Protocol: protocol, Port: port, Peer: peer}
	l.mu.Lock()
	defer l.mu.Unlock()
	if len(l.all) < ledgerLimit {
		l.all = append(l.all, h)
	}
	return &hearing{ledger: l, h: h}
}

func (h *hearing) got(b []byte) {
	h.ledger.mu.Lock()
	defer h.ledger.mu.Unlock()
	h.h.Bytes += int64(len(b))
	if h.line {
		return
	}
	first, _, complete := bytes.Cut(b, []byte("\n"))
	h.h.Line += string(first[:min(len(first), 200-len(h.h.Line))])
	h.line = complete || len(h.h.Line) == 200
}

func (h *hearing) end(how string) {
	h.ledger.mu.Lock()
	defer h.ledger.mu.Unlock()
	h.h.End = how
}

// listening is a connection that writes into the ledger what it reads.
type listening struct {
	*net.TCPConn
	h *hearing
}

func (c *listening) Read(b []byte) (int, error) {
	n, err := c.TCPConn.Read(b)
	c.h.got(b[:n])
	return n, err
}

// serve shows the ledger to whoever runs "heard" in the pod.
func (l *ledger) serve() error {
	s, err := net.Listen("unix", ledgerSocket)
	if err != nil {
		return fmt.Errorf("show what was heard: %w", err)
	}
	go func() {
		for {
			c, err := s.Accept()
			if err != nil {
				return
			}
			l.mu.Lock()
			b, _ := json.Marshal(l.all)
			l.mu.Unlock()
			_, _ = c.Write(b)
			c.Close()
		}
	}()
	return nil
}

func askHeard(out io.Writer) error {
	c, err := net.Dial("unix", ledgerSocket)
	if err != nil {
		return err
	}
	defer c.Close()
	_, err = io.Copy(out, c)
	return err
}
