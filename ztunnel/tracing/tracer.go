// SPDX-License-Identifier: Apache-2.0

package tracing

import (
	"context"
	"encoding/binary"
	"fmt"
	"log/slog"
	"math"
	"net"
	"net/netip"
	"net/url"
	"sync"
	"sync/atomic"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/warren-mesh/warren/mesh"
)

// Config of a Tracer. Store and Dial are required.
type Config struct {
	// Store has the mesh's configuration, and the services among which collectors are found.
	Store *mesh.Store
	// Dial connects from this process's own network.
	Dial func(ctx context.Context, dst netip.AddrPort) (net.Conn, error)
	Node string
	// Version of this program.
	Version string
	// Log may be nil.
	Log *slog.Logger
	// Registerer takes the metrics; nil registers nothing.
	Registerer prometheus.Registerer
}

// Tracer takes spans while Run runs. Safe for concurrent use. The nil Tracer takes none.
type Tracer struct {
	cfg   Config
	count *counts
	turn  atomic.Uint32 // which address of a collector the next connection tries first
	now   atomic.Pointer[active]
}

// active is what holds until the configuration changes.
type active struct {
	below     uint64 // traces with an id below have spans; of the 63 bits that are compared
	exporters []*exporter
}

// New returns a tracer.
func New(cfg Config) *Tracer {
	if cfg.Log == nil {
		cfg.Log = slog.New(slog.DiscardHandler)
	}
	return &Tracer{cfg: cfg, count: newCounts(cfg.Registerer)}
}

// On reports whether any connection may have a span.
func (t *Tracer) On() bool { return t != nil && t.now.Load() != nil }

// Sampled reports whether connections of a trace have spans. It is decided by the trace's id alone, so both ends of a
// connection agree, and what a peer says of it makes no difference.
func (t *Tracer) Sampled(trace [16]byte) bool {
	if t == nil {
		return false
	}
	a := t.now.Load()
	return a != nil && binary.BigEndian.Uint64(trace[8:])>>1 < a.below
}

// threshold is what the ids of percent of all traces lie below, as OpenTelemetry's TraceIdRatioBased has it.
func threshold(percent float64) uint64 {
	switch {
	case !(percent > 0):
		return 0
	case percent >= 100:
		return 1 << 63
	}
	return uint64(math.Round(percent / 100 * (1 << 63)))
}

// Export hands over the span of a connection that is over. It never blocks.
func (t *Tracer) Export(s *Span) {
	if t == nil {
		return
	}
	if a := t.now.Load(); a != nil {
		for _, e := range a.exporters {
			e.offer(s)
		}
	}
}

// Run follows the mesh's configuration and delivers spans until ctx ends; then what waits has two seconds.
func (t *Tracer) Run(ctx context.Context) error {
	var current mesh.Tracing
	stop := func() {}
	for {
		snap, changed := t.cfg.Store.Watch()
		if want := snap.Config().Tracing; want != current {
			t.now.Store(nil)
			stop()
			stop, current = t.start(ctx, want), want
		}
		select {
		case <-changed:
		case <-ctx.Done():
			t.now.Store(nil)
			stop()
			return nil
		}
	}
}

// start has spans made and delivered, until the function it returns is called.
func (t *Tracer) start(ctx context.Context, c mesh.Tracing) (stop func()) {
	if !c.Enabled() {
		return func() {}
	}
	a := &active{below: threshold(c.SamplePercent)}
	if c.OTLP != "" {
		s, err := newOTLP(c.OTLP, t.cfg.Node, t.cfg.Version, t.dial)
		t.add(a, "otlp", c.OTLP, s, err)
	}
	if c.Zipkin != "" {
		t.add(a, "zipkin", c.Zipkin, newZipkin(c.Zipkin, t.dial), checkURL(c.Zipkin))
	}
	ctx, cancel := context.WithCancel(ctx)
	var running sync.WaitGroup
	for _, e := range a.exporters {
		running.Go(func() { e.run(ctx) })
	}
	t.now.Store(a)
	t.cfg.Log.Info("tracing", "otlp", c.OTLP, "zipkin", c.Zipkin, "percent", c.SamplePercent)
	return func() {
		cancel()
		running.Wait()
	}
}

func (t *Tracer) add(a *active, name, endpoint string, s sink, err error) {
	if err != nil {
		t.cfg.Log.Error("spans go nowhere", "exporter", name, "endpoint", endpoint, "err", err)
		return
	}
	a.exporters = append(a.exporters, newExporter(name, s, t.count, t.cfg.Log))
}

func checkURL(s string) error {
	u, err := url.Parse(s)
	if err == nil && (u.Scheme != "http" || u.Host == "") {
		err = fmt.Errorf("want http://HOST:PORT/PATH")
	}
	return err
}

// dial connects to a collector: to one address after the other, beginning with another one each time.
func (t *Tracer) dial(ctx context.Context, hostPort string) (net.Conn, error) {
	addrs, err := resolve(t.cfg.Store.Snapshot(), hostPort, t.cfg.Node)
	if err != nil {
		return nil, err
	}
	first := int(t.turn.Add(1))
	for i := range addrs {
		var conn net.Conn
		if conn, err = t.cfg.Dial(ctx, addrs[(first+i)%len(addrs)]); err == nil || ctx.Err() != nil {
			return conn, err
		}
	}
	return nil, err
}
