// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bufio"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"sync"
	"time"
)

// order is what a load is told to do.
type order struct {
	Kind     string
	Target   string
	Conns    int
	Size     int
	Rate     int
	Duration time.Duration
}

// outcome is what came of it. Operations are requests or connections.
type outcome struct {
	Elapsed    time.Duration
	Bytes      int64
	Operations int64
	Quantiles  [4]time.Duration
}

// patience bounds what a load waits for beyond its duration.
const patience = 20 * time.Second

// load is the application that asks. It connects, says that it is ready, waits for a line on its standard input,
// runs, and prints its outcome.
func load(argument string) error {
	var o order
	if err := json.Unmarshal([]byte(argument), &o); err != nil {
		return err
	}
	r := &runner{order: o}
	defer r.close()
	if err := r.connect(); err != nil {
		return fmt.Errorf("prepare: %w", err)
	}
	fmt.Println(readyLine)
	if _, err := bufio.NewReader(os.Stdin).ReadString('\n'); err != nil {
		return err
	}
	for _, c := range r.conns {
		_ = c.SetDeadline(time.Now().Add(o.Duration + patience))
	}
	parts := map[string]func() error{
		kindBytes: r.bytes, kindRequests: r.requests, kindPaced: r.paced, kindConnections: r.connections, kindMemory: r.again,
	}
	started := time.Now()
	if err := parts[o.Kind](); err != nil {
		return fmt.Errorf("%s: %w", o.Kind, err)
	}
	r.outcome.Elapsed = time.Since(started)
	r.outcome.Quantiles = r.latencies.quantiles()
	return json.NewEncoder(os.Stdout).Encode(r.outcome)
}

// runner is a load under way.
type runner struct {
	order
	conns []*net.TCPConn

	mu        sync.Mutex
	outcome   outcome
	latencies latencies
}

// connect opens the connections, and has each carry one request, so that whatever a first one costs is not measured.
func (r *runner) connect() error {
	mode := byte(modeEcho)
	n := r.Conns
	switch r.Kind {
	case kindBytes:
		mode = modeSink
	case kindConnections:
		n = 1
	}
	r.conns = make([]*net.TCPConn, n)
	return each(min(n, 16), func(worker int) error {
		for i := worker; i < n; i += 16 {
			c, err := r.dial(mode)
			if err != nil {
				return err
			}
			r.conns[i] = c
			if mode != modeEcho {
				continue
			}
			if err := newMessage(i, r.Size).exchange(c); err != nil {
				return fmt.Errorf("connection %d: %w", i, err)
			}
		}
		return nil
	})
}

func (r *runner) dial(mode byte) (*net.TCPConn, error) {
	c, err := net.DialTimeout("tcp", r.Target, patience)
	if err != nil {
		return nil, err
	}
	_ = c.SetDeadline(time.Now().Add(patience))
	if _, err := c.Write([]byte{mode}); err != nil {
		c.Close()
		return nil, err
	}
	return c.(*net.TCPConn), nil
}

func (r *runner) close() {
	for _, c := range r.conns {
		if c != nil {
			c.Close()
		}
	}
}

// count adds a worker's share to the outcome.
func (r *runner) count(bytes, operations int64, l latencies) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.outcome.Bytes += bytes
	r.outcome.Operations += operations
	r.latencies = append(r.latencies, l...)
}

// each runs n workers and returns what went wrong in any.
func each(n int, work func(worker int) error) error {
	errs := make([]error, n)
	var wg sync.WaitGroup
	for i := range n {
		wg.Go(func() { errs[i] = work(i) })
	}
	wg.Wait()
	return errors.Join(errs...)
}

// ended wants the connection's orderly end.
func ended(c net.Conn) error {
	var b [1]byte
	n, err := c.Read(b[:])
	if n != 0 || err != io.EOF {
		return fmt.Errorf("after the last byte: %d more and %w, want EOF", n, err)
	}
	return nil
}
