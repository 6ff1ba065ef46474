// SPDX-License-Identifier: Apache-2.0

package zds

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"
	"sync"
	"time"

	"github.com/warren-mesh/warren/mesh/latest"
)

const (
	answerTimeout = 10 * time.Second // for a ztunnel's hello and each of its acks
	retryInterval = 5 * time.Second  // between adds of a pod its ztunnel could not take
	acceptBurst   = 5                // connections at once; then
	acceptEvery   = 200 * time.Millisecond
)

// Ack is a ztunnel's answer to the announcement of a pod.
type Ack struct {
	UID string
	// Err is what the ztunnel said went wrong; nil means that it serves the pod.
	Err error
}

// ServerConfig configures a Server. The zero value is usable.
type ServerConfig struct {
	// OpenNetns opens the network namespace of a pod, for ztunnels of Istio's V1; the server closes the
	// file. An error matching os.ErrNotExist means that it can't be opened now but the pod exists. Nil
	// refuses such ztunnels.
	OpenNetns func(uid string) (*os.File, error)
	// Log; nil discards.
	Log *slog.Logger
}

// Server is the agent's side: it holds the pods that should be served and brings every connected ztunnel
// to that. Each is told of the pods there are when it connects; of new ones later the newest connection, of removals all, so
// that while an old and a new ztunnel run side by side the new one takes what is new. Safe for concurrent use.
type Server struct {
	cfg  ServerConfig
	acks *latest.Queue[string, Ack]

	mu     sync.Mutex
	pods   map[string]pod
	synced bool
	serial uint64
	conns  []*peer // oldest first
}

// pod is a desired pod; serial tells a pod from a later one of the same uid.
type pod struct {
	Workload
	serial uint64
}

// NewServer returns a server without pods.
func NewServer(cfg ServerConfig) *Server {
	if cfg.Log == nil {
		cfg.Log = slog.New(slog.DiscardHandler)
	}
	return &Server{cfg: cfg, acks: latest.New(func(a Ack) string { return a.UID }), pods: make(map[string]pod)}
}

// Set adds a pod, or changes what is said of it; setting the same again is nothing.
func (s *Server) Set(w Workload) {
	w.Netns = nil
	s.mu.Lock()
	defer s.mu.Unlock()
	if old, ok := s.pods[w.UID]; ok && old.Workload == w {
		return
	}
	s.serial++
	s.pods[w.UID] = pod{w, s.serial}
	s.wake()
}

// Delete removes a pod; one that is missing is no error.
func (s *Server) Delete(uid string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.pods, uid)
	s.wake()
}

// Synced says that all pods there are have been set: only now ztunnels are told that what they have beyond
// these is gone.
func (s *Server) Synced() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.synced = true
	s.wake()
}

// Acks carries the answers, the latest only for each pod that waits to be received.
func (s *Server) Acks() <-chan Ack { return s.acks.Out() }

// Connections returns how many ztunnels are connected.
func (s *Server) Connections() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return len(s.conns)
}

func (s *Server) wake() {
	for _, p := range s.conns {
		select {
		case p.wake <- struct{}{}:
		default:
		}
	}
}

// Serve accepts ztunnels on l, a listener of "unixpacket", until ctx ends, then nil. The listener is closed
// in any case.
func (s *Server) Serve(ctx context.Context, l *net.UnixListener) error {
	ctx, cancel := context.WithCancel(ctx)
	var wg sync.WaitGroup
	defer wg.Wait()
	defer cancel()
	wg.Go(func() { s.acks.Run(ctx) })
	context.AfterFunc(ctx, func() { l.Close() })
	pace := newPace(acceptBurst, acceptEvery)
	for {
		if pace.wait(ctx) != nil {
			return nil
		}
		c, err := l.AcceptUnix()
		if ctx.Err() != nil {
			if err == nil {
				c.Close()
			}
			return nil
		}
		if errors.Is(err, net.ErrClosed) {
			return fmt.Errorf("accept ztunnel: %w", err)
		}
		if err != nil { // out of file descriptors, perhaps: the next turn of the pace
			s.cfg.Log.Error("accept ztunnel", "err", err)
			continue
		}
		wg.Go(func() { s.serve(ctx, c) })
	}
}

// serve runs one connection to its end.
func (s *Server) serve(ctx context.Context, c *net.UnixConn) {
	p := newPeer(s, c)
	heard := make(chan struct{})
	ctx, cancel := context.WithCancel(ctx)
	context.AfterFunc(ctx, func() { c.Close() })
	go func() {
		defer close(heard)
		p.receive(ctx)
	}()
	err := p.run(ctx)
	ended := ctx.Err() != nil
	cancel()
	<-heard
	if !ended {
		s.cfg.Log.Info("ztunnel gone", "err", err)
	}
}

// join makes p the newest connection.
func (s *Server) join(p *peer) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.conns = append(s.conns, p)
}

// leave takes p out; another may be the newest now.
func (s *Server) leave(p *peer) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for i, q := range s.conns {
		if q == p {
			s.conns = append(s.conns[:i:i], s.conns[i+1:]...)
			break
		}
	}
	s.wake()
}
