// SPDX-License-Identifier: Apache-2.0

// Package cni is the agent's side of the CNI plugin: it answers the plugin's questions, keeps the cache that the plugin
// falls back on, and installs the plugin on the node.
package cni

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"os"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"golang.org/x/sync/errgroup"
	"golang.org/x/sys/unix"

	"github.com/warren-mesh/warren/mesh/cni"
)

const (
	// maxQuestions are answered at once; the plugin of one more comes again.
	maxQuestions = 512
	// questionWithin is how long a connection may take to put its question.
	questionWithin = 2 * time.Second
)

// Pods is who knows the node's pods. Safe for concurrent use.
type Pods interface {
	// Announce waits until the pod is captured, or known to be outside, or ctx ends. The file is the callee's.
	Announce(ctx context.Context, r cni.Request, netns *os.File) cni.Reply
	// Ended takes back what Announce said of the sandbox.
	Ended(ctx context.Context, r cni.Request)
	// Check reports whether the pod is as it should be.
	Check(ctx context.Context, r cni.Request) cni.Reply
}

// Server answers plugins. See NewServer.
type Server struct {
	pods Pods
	log  *slog.Logger
	took *prometheus.HistogramVec
}

// NewServer makes a server that asks pods, and counts into reg.
func NewServer(pods Pods, log *slog.Logger, reg prometheus.Registerer) *Server {
	s := &Server{pods: pods, log: log, took: prometheus.NewHistogramVec(prometheus.HistogramOpts{
		Name:    "warren_cni_answer_seconds",
		Help:    "How long CNI plugins, and so the start of pods, waited for an answer.",
		Buckets: []float64{.001, .005, .01, .025, .05, .1, .25, .5, 1, 2.5, 5, 15, 60},
	}, []string{"op", "result"})}
	reg.MustRegister(s.took)
	return s
}

// Serve answers until ctx ends, and returns nil then. Who waits for an answer is not given one: its plugin asks the
// next agent. It closes the listener.
func (s *Server) Serve(ctx context.Context, l *net.UnixListener) error {
	g, ctx := errgroup.WithContext(ctx)
	g.SetLimit(maxQuestions)
	defer context.AfterFunc(ctx, func() { l.Close() })()
	for {
		c, err := l.AcceptUnix()
		if err != nil {
			werr := g.Wait()
			if ctx.Err() != nil || errors.Is(err, net.ErrClosed) {
				return werr
			}
			return fmt.Errorf("accept CNI plugin: %w", err)
		}
		g.Go(func() error {
			defer c.Close()
			if err := s.serve(ctx, c); err != nil && ctx.Err() == nil {
				s.log.Warn("CNI plugin", "err", err)
			}
			return nil
		})
	}
}

// serve answers one question.
func (s *Server) serve(ctx context.Context, c *net.UnixConn) error {
	if err := cni.Trust(c); err != nil {
		return err
	}
	if err := c.SetDeadline(time.Now().Add(questionWithin)); err != nil {
		return err
	}
	var r cni.Request
	files, err := cni.Receive(c, &r)
	defer func() { cni.CloseAll(files) }()
	if err == nil {
		err = r.Validate()
	}
	if err == nil {
		err = checkFiles(r, files)
	}
	if err != nil {
		if !errors.Is(err, io.EOF) {
			_ = cni.Send(c, cni.Reply{Version: cni.Version, Result: cni.Failed, Error: err.Error()}, nil)
		}
		return err
	}
	if err := c.SetDeadline(time.Time{}); err != nil {
		return err
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	go func() { // ends with the connection: a plugin that was killed waits no more
		_, _ = c.Read(make([]byte, 1))
		cancel()
	}()
	start := time.Now()
	reply := cni.Reply{Result: cni.Done}
	switch r.Op {
	case cni.Add:
		netns := files[0]
		files = nil
		wait, stop := context.WithTimeout(ctx, r.Wait())
		reply = s.pods.Announce(wait, r, netns)
		stop()
	case cni.Del:
		s.pods.Ended(ctx, r)
	case cni.Check:
		reply = s.pods.Check(ctx, r)
	}
	s.took.WithLabelValues(string(r.Op), string(reply.Result)).Observe(time.Since(start).Seconds())
	s.log.Info("CNI plugin", "op", r.Op, "pod", r.Pod.String(), "uid", r.Pod.UID, "container", r.Container,
		"result", reply.Result, "reason", reply.Reason, "err", reply.Error, "took", time.Since(start).Round(time.Microsecond))
	if err := ctx.Err(); err != nil {
		return fmt.Errorf("pod %s: nobody waits for the answer any more", r.Pod)
	}
	reply.Version = cni.Version
	if err := c.SetWriteDeadline(time.Now().Add(questionWithin)); err != nil {
		return err
	}
	return cni.Send(c, reply, nil)
}

// checkFiles wants one network namespace with an announcement, and nothing with other questions.
func checkFiles(r cni.Request, files []*os.File) error {
	want := 0
	if r.Op == cni.Add {
		want = 1
	}
	if len(files) != want {
		return fmt.Errorf("pod %s: %d files with %q, not %d", r.Pod, len(files), r.Op, want)
	}
	for _, f := range files {
		var fs unix.Statfs_t
		if err := unix.Fstatfs(int(f.Fd()), &fs); err != nil || fs.Type != unix.NSFS_MAGIC {
			return fmt.Errorf("pod %s: the file handed over is no namespace", r.Pod)
		}
		kind, err := unix.IoctlRetInt(int(f.Fd()), unix.NS_GET_NSTYPE)
		if err != nil {
			return fmt.Errorf("pod %s: look at the namespace handed over: %w", r.Pod, os.NewSyscallError("ioctl", err))
		}
		if kind != unix.CLONE_NEWNET {
			return fmt.Errorf("pod %s: the namespace handed over is not of the network (type %#x)", r.Pod, kind)
		}
	}
	return nil
}

// Listen makes the agent's socket for the plugin, for root alone.
func Listen(path string) (*net.UnixListener, error) {
	l, err := net.ListenUnix("unixpacket", &net.UnixAddr{Name: path, Net: "unixpacket"})
	if err != nil {
		return nil, fmt.Errorf("listen for CNI plugins: %w", err)
	}
	if err := os.Chmod(path, 0o600); err != nil {
		l.Close()
		return nil, fmt.Errorf("listen for CNI plugins: %w", err)
	}
	return l, nil
}
