// SPDX-License-Identifier: Apache-2.0

package informers

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/url"
	"time"

	"github.com/go-logr/logr"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/util/wait"
	"k8s.io/apimachinery/pkg/watch"
	"k8s.io/client-go/tools/cache"
	"k8s.io/klog/v2"
	"k8s.io/utils/clock"

	"github.com/warren-mesh/warren/mesh/kube/apiserver"
)

const (
	// backoffFirst doubles up to backoffCap; each pause is drawn from between one and two of it, so that a
	// thousand nodes do not come back in one second.
	backoffFirst = 300 * time.Millisecond
	backoffCap   = 8 * time.Second
	// absence is how long the server has to keep saying that it has no such kind before objects of it that are
	// known, or that an earlier process knew, are given up: a server that is starting may not know its own
	// CustomResourceDefinitions yet, and policies must not fall away for that.
	absence = 30 * time.Second
)

// follow keeps c equal to the server until ctx ends. It returns at once.
func (c *kindCache) follow(ctx context.Context, client *apiserver.Client, log *slog.Logger) (stopped func(), err error) {
	lw, err := c.kind.watch(client, c.kind.resource)
	if err != nil {
		return nil, fmt.Errorf("watch %s: %w", c.kind.resource.Resource, err)
	}
	r := cache.NewReflectorWithOptions(&observed{lw: cache.ToListerWatcherWithContext(lw), cache: c, log: log}, c.kind.wire, c, cache.ReflectorOptions{
		Name: "warren/" + c.kind.resource.Resource, TypeDescription: c.kind.name,
		Clock:   pausing{WithTicker: clock.RealClock{}, ctx: ctx, board: c.board},
		Backoff: pauses(),
	})
	done := make(chan struct{})
	go func() {
		defer close(done)
		r.RunWithContext(klog.NewContext(ctx, logr.FromSlogHandler(demoted{log.Handler()})))
	}()
	return func() { <-done }, nil
}

// pauses are those between attempts to reach the server.
func pauses() *wait.Backoff {
	return &wait.Backoff{Duration: backoffFirst, Factor: 2, Jitter: 1, Steps: 40, Cap: backoffCap}
}

// pausing is a clock whose pauses end with the context, to which the reflector's own do not all look, and when
// another kind reaches the server again: what was away for one is back for all.
type pausing struct {
	clock.WithTicker
	ctx   context.Context
	board *board
}

// After returns a channel that is ready after d, or earlier.
func (p pausing) After(d time.Duration) <-chan time.Time {
	ch := make(chan time.Time, 1)
	stop := make([]func() bool, 0, 2)
	ring := func() {
		select {
		case ch <- p.Now():
		default:
		}
		for _, s := range stop {
			s()
		}
	}
	ready := make(chan struct{}) // nobody rings before all of stop is there
	early := func() { <-ready; ring() }
	t := time.AfterFunc(d, early)
	stop = append(stop, context.AfterFunc(p.ctx, early), context.AfterFunc(p.board.outage(), early), t.Stop)
	close(ready)
	return ch
}

// observed is a lister and watcher that notes how the server answers.
type observed struct {
	lw    cache.ListerWatcherWithContext
	cache *kindCache
	log   *slog.Logger
}

func (o *observed) ListWithContext(ctx context.Context, opts metav1.ListOptions) (runtime.Object, error) {
	list, err := o.lw.ListWithContext(ctx, opts)
	o.cache.answered(ctx, err, o.log)
	return list, err
}

func (o *observed) WatchWithContext(ctx context.Context, opts metav1.ListOptions) (watch.Interface, error) {
	w, err := o.lw.WatchWithContext(ctx, opts)
	o.cache.answered(ctx, err, o.log)
	return w, err
}

// List and Watch complete client-go's older interface.
func (o *observed) List(opts metav1.ListOptions) (runtime.Object, error) {
	return o.ListWithContext(context.Background(), opts)
}

func (o *observed) Watch(opts metav1.ListOptions) (watch.Interface, error) {
	return o.WatchWithContext(context.Background(), opts)
}

// answered notes the outcome of a request. An error is logged when it is another than the last.
func (c *kindCache) answered(ctx context.Context, err error, log *slog.Logger) {
	if ctx.Err() != nil {
		return
	}
	c.board.mu.Lock()
	defer c.board.mu.Unlock()
	switch {
	case err == nil:
		if c.err != nil {
			log.Info("watching again", "kind", c.kind.name)
			c.board.endOutage()
		}
		c.alive()
		return
	case c.kind.optional && apierrors.IsNotFound(err):
		c.missing(log)
		return
	case errors.Is(err, io.EOF), apierrors.IsResourceExpired(err), apierrors.IsGone(err):
		return // the ordinary ends of a watch
	}
	if cause := (*url.Error)(nil); errors.As(err, &cause) {
		err = cause.Err // the URL is another each time
	}
	if c.err == nil || c.err.Error() != err.Error() {
		log.Warn("can't watch, trying again", "kind", c.kind.name, "err", err)
	}
	c.err = err
}

// missing takes the server's word that it has no such kind, at once where nothing of it is known.
func (c *kindCache) missing(log *slog.Logger) {
	now := c.board.now()
	if c.absent.IsZero() {
		c.absent = now
	}
	c.contact, c.err = now, nil
	known := len(c.objects)
	if !c.synced {
		known = max(known, c.board.before(c.kind.name))
	}
	switch {
	case known > 0 && now.Sub(c.absent) < absence:
		return
	case known > 0:
		log.Warn("the server has had no such kind for a while: its objects are no longer in force", "kind", c.kind.name, "resource", c.kind.resource.String(), "objects", known)
	case !c.synced:
		log.Info("the server has no such kind, looking again from time to time", "kind", c.kind.name, "resource", c.kind.resource.String())
	}
	c.replace(objects{})
}

// demoted writes everything at debug level: what a Reflector says of its errors is told by observed already, once.
type demoted struct{ slog.Handler }

// Enabled implements slog.Handler.
func (d demoted) Enabled(ctx context.Context, _ slog.Level) bool {
	return d.Handler.Enabled(ctx, slog.LevelDebug)
}

// Handle implements slog.Handler.
func (d demoted) Handle(ctx context.Context, r slog.Record) error {
	if r.Level = slog.LevelDebug; !d.Handler.Enabled(ctx, r.Level) {
		return nil // errors come without having been asked for
	}
	return d.Handler.Handle(ctx, r)
}

// WithAttrs implements slog.Handler.
func (d demoted) WithAttrs(as []slog.Attr) slog.Handler { return demoted{d.Handler.WithAttrs(as)} }

// WithGroup implements slog.Handler.
func (d demoted) WithGroup(name string) slog.Handler { return demoted{d.Handler.WithGroup(name)} }
