// SPDX-License-Identifier: Apache-2.0

package accesslog

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"sync"
	"sync/atomic"
)

// QueueLength is how many lines wait for a slow sink before more are dropped.
const QueueLength = 4096

// Writer hands lines to a sink through a bounded queue. Safe for concurrent use.
type Writer struct {
	format  Format
	sink    io.Writer
	queue   chan *[]byte
	lines   sync.Pool
	dropped atomic.Uint64
}

// New returns a writer; it writes while Run runs.
func New(sink io.Writer, format Format) *Writer {
	w := &Writer{format: format, sink: sink, queue: make(chan *[]byte, QueueLength)}
	w.lines.New = func() any { b := make([]byte, 0, 512); return &b }
	return w
}

// Write queues r's line. It never blocks; a full queue drops the line.
func (w *Writer) Write(r *Record) {
	if w == nil {
		return
	}
	b := w.lines.Get().(*[]byte)
	*b = w.format((*b)[:0], r)
	select {
	case w.queue <- b:
	default:
		w.dropped.Add(1)
		w.lines.Put(b)
	}
}

// Dropped is how many lines were dropped so far.
func (w *Writer) Dropped() uint64 { return w.dropped.Load() }

// Run writes queued lines until ctx ends, then what is still queued. A sink that fails ends it.
func (w *Writer) Run(ctx context.Context) error {
	out := bufio.NewWriterSize(w.sink, 64<<10)
	for {
		select {
		case b := <-w.queue:
			if err := w.burst(out, b); err != nil {
				return err
			}
		case <-ctx.Done():
			return w.rest(out)
		}
	}
}

// burst writes b and all that waits behind it, then flushes.
func (w *Writer) burst(out *bufio.Writer, b *[]byte) error {
	for {
		_, err := out.Write(*b)
		w.lines.Put(b)
		if err != nil {
			return fmt.Errorf("write access log: %w", err)
		}
		select {
		case b = <-w.queue:
			continue
		default:
		}
		if err := out.Flush(); err != nil {
			return fmt.Errorf("write access log: %w", err)
		}
		return nil
	}
}

func (w *Writer) rest(out *bufio.Writer) error {
	select {
	case b := <-w.queue:
		return w.burst(out, b)
	default:
		return nil
	}
}
