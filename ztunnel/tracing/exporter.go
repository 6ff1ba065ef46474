// SPDX-License-Identifier: Apache-2.0

package tracing

import (
	"context"
	"errors"
	"log/slog"
	"time"

	"github.com/warren-mesh/warren/mesh/retry"
)

const (
	// batchLength is how many spans go in one message at most.
	batchLength = 512
	// batchTime is how long a span waits for others to go with.
	batchTime = time.Second
	// answerTime is how long a collector may take to answer.
	answerTime = 10 * time.Second
	// attempts to bring one batch to a collector that fails; then it is dropped, for it may be why.
	attempts                    = 5
	shortestPause, longestPause = time.Second, 30 * time.Second
	// lastWords is how long the spans that wait at the end may take.
	lastWords = 2 * time.Second
)

// sink takes spans. refused is how many it did not want of those it got.
type sink interface {
	send(ctx context.Context, spans []*Span) (refused int, err error)
	close()
}

// permanentError will be the same next time.
type permanentError struct{ err error }

func (e *permanentError) Error() string { return e.err.Error() }
func (e *permanentError) Unwrap() error { return e.err }

// exporter brings spans to one sink.
type exporter struct {
	name  string
	sink  sink
	queue *queue
	count *counts
	log   *slog.Logger
	// pause between attempts, except in tests retry.Delay's.
	pause func(failures int) time.Duration
	batch time.Duration // batchTime, except in tests
}

func newExporter(name string, s sink, c *counts, log *slog.Logger) *exporter {
	return &exporter{name: name, sink: s, queue: newQueue(), count: c, log: log, batch: batchTime,
		pause: func(failures int) time.Duration { return retry.Delay(failures, shortestPause, longestPause) }}
}

// offer takes s if there is room. It never blocks.
func (e *exporter) offer(s *Span) {
	if cause := e.queue.put(s); cause != "" {
		e.count.dropped(e.name, cause, 1)
	}
}

// run sends until ctx ends, then once more what waits.
func (e *exporter) run(ctx context.Context) {
	defer e.sink.close()
	failures := 0
	for {
		batch := e.gather(ctx)
		if ctx.Err() != nil {
			e.last(batch)
			return
		}
		failures = e.deliver(ctx, batch, failures)
	}
}

// gather returns at least one span, or what there is when ctx ends.
func (e *exporter) gather(ctx context.Context) (batch []*Span) {
	var full <-chan time.Time
	for len(batch) < batchLength {
		select {
		case s := <-e.queue.out:
			e.queue.taken(s)
			if batch = append(batch, s); full == nil {
				full = time.After(e.batch)
			}
		case <-full:
			return batch
		case <-ctx.Done():
			return batch
		}
	}
	return batch
}

// deliver sends the batch, again after pauses, or drops it. failures is how often sending failed in a row before, and
// what it returns is how often now: the pauses of a sink that stays away do not start afresh with each batch.
func (e *exporter) deliver(ctx context.Context, batch []*Span, failures int) int {
	for attempt := 1; ; attempt++ {
		err := e.once(ctx, batch)
		var permanent *permanentError
		switch {
		case err == nil:
			if failures > 0 {
				e.log.Info("spans are taken again", "exporter", e.name)
			}
			return 0
		case ctx.Err() != nil:
			e.last(batch)
			return failures
		case errors.As(err, &permanent):
			e.log.Warn("spans are not taken", "exporter", e.name, "spans", len(batch), "err", err)
			e.count.dropped(e.name, "refused", len(batch))
			_ = retry.Wait(ctx, e.pause(0)) // and neither are the next, it may be
			return failures
		case failures == 0:
			e.log.Warn("can't deliver spans", "exporter", e.name, "err", err)
		}
		failures++
		if attempt == attempts {
			e.count.dropped(e.name, "unreachable", len(batch))
			_ = retry.Wait(ctx, e.pause(failures))
			return failures
		}
		_ = retry.Wait(ctx, e.pause(failures-1))
	}
}

func (e *exporter) once(ctx context.Context, batch []*Span) error {
	ctx, cancel := context.WithTimeout(ctx, answerTime)
	defer cancel()
	refused, err := e.sink.send(ctx, batch)
	if err != nil {
		e.count.failed(e.name)
		return err
	}
	refused = min(max(refused, 0), len(batch)) // it may say anything, and a counter that is told to go back panics
	e.count.dropped(e.name, "refused", refused)
	e.count.sent(e.name, len(batch)-refused)
	return nil
}

// last sends what is left, in one attempt of bounded time.
func (e *exporter) last(batch []*Span) {
	for more := true; more; {
		select {
		case s := <-e.queue.out:
			e.queue.taken(s)
			batch = append(batch, s)
		default:
			more = false
		}
	}
	ctx, cancel := context.WithTimeout(context.Background(), lastWords)
	defer cancel()
	for len(batch) > 0 {
		n := min(len(batch), batchLength)
		if e.once(ctx, batch[:n]) != nil {
			e.count.dropped(e.name, "unreachable", len(batch))
			return
		}
		batch = batch[n:]
	}
}
