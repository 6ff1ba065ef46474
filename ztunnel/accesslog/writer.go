// SPDX-License-Identifier: Apache-2.0

package accesslog

import (
	"bufio"
	"context"
	"io"
	"sync"
	"sync/atomic"
	"time"

	"github.com/warren-mesh/warren/mesh"
)

// QueueLength is how many lines wait for a slow sink before more are dropped.
const QueueLength = 4096

// lastWords is how long a sink may take for what is queued when the writer is told to end.
const lastWords = 2 * time.Second

// Writer hands lines to a sink through a bounded queue. Safe for concurrent use.
type Writer struct {
	format  Format // where the mesh's configuration names none
	now     atomic.Pointer[setting]
	sink    io.Writer
	queue   chan *[]byte
	lines   sync.Pool
	dropped atomic.Uint64
	last    time.Duration // lastWords, except in tests
}

// setting is what the mesh's configuration says.
type setting struct {
	mode   mesh.AccessLogMode
	format Format
}

// New returns a writer of a line for every connection, in that format until Configure says otherwise; it writes while
// Run runs.
func New(sink io.Writer, format Format) *Writer {
	w := &Writer{format: format, sink: sink, queue: make(chan *[]byte, QueueLength), last: lastWords}
	w.Configure(mesh.AccessLog{})
	w.lines.New = func() any { b := make([]byte, 0, 512); return &b }
	return w
}

// Configure says which connections have a line from now on, and how it is written.
func (w *Writer) Configure(c mesh.AccessLog) {
	s := &setting{c.Mode, w.format}
	switch c.Format {
	case mesh.AccessLogText:
		s.format = Text
	case mesh.AccessLogJSON:
		s.format = JSON
	}
	w.now.Store(s)
}

// Wants reports whether a connection that ended by err has a line; nil is a connection that ended in order, or one
// that was opened.
func (w *Writer) Wants(err error) bool {
	if w == nil {
		return false
	}
	switch w.now.Load().mode {
	case mesh.AccessLogOff:
		return false
	case mesh.AccessLogErrors:
		return err != nil
	}
	return true
}

// Write queues r's line, if it is to have one. It never blocks; a full queue drops the line.
func (w *Writer) Write(r *Record) {
	if !w.Wants(r.Err) {
		return
	}
	b := w.lines.Get().(*[]byte)
	*b = w.now.Load().format((*b)[:0], r)
	select {
	case w.queue <- b:
	default:
		w.dropped.Add(1)
		w.lines.Put(b)
	}
}

// Dropped is how many lines were dropped so far.
func (w *Writer) Dropped() uint64 { return w.dropped.Load() }

// Run writes queued lines until ctx ends, then what is still queued, and returns nil. Lines that the sink does not
// take are dropped and counted: a full disk must not end the connections that are logged to it. A sink that is stuck
// holds Run up for two seconds; the goroutine that waits for it stays behind, for a process that ends.
func (w *Writer) Run(ctx context.Context) error {
	done := make(chan struct{})
	go func() {
		defer close(done)
		w.serve(ctx)
	}()
	<-ctx.Done()
	patience := time.NewTimer(w.last)
	defer patience.Stop()
	select {
	case <-done:
	case <-patience.C:
	}
	return nil
}

// serve writes until ctx has ended and nothing is queued.
func (w *Writer) serve(ctx context.Context) {
	out := bufio.NewWriterSize(w.sink, 64<<10)
	for {
		select {
		case b := <-w.queue:
			w.burst(out, b)
		case <-ctx.Done():
			select {
			case b := <-w.queue:
				w.burst(out, b)
			default:
			}
			return
		}
	}
}

// burst writes b and all that waits behind it, then flushes. After a failure nobody can tell which of its lines
// were written: all count as dropped.
func (w *Writer) burst(out *bufio.Writer, b *[]byte) {
	for lines := uint64(1); ; lines++ {
		_, err := out.Write(*b)
		w.lines.Put(b)
		if err == nil {
			select {
			case b = <-w.queue:
				continue
			default:
				err = out.Flush()
			}
		}
		if err != nil {
			w.dropped.Add(lines)
			out.Reset(w.sink)
		}
		return
	}
}
