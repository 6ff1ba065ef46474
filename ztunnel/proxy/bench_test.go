// SPDX-License-Identifier: Apache-2.0

package proxy

import (
	"context"
	"errors"
	"io"
	"net"
	"net/netip"
	"testing"
	"time"

	"github.com/warren-mesh/warren/mesh"
	"github.com/warren-mesh/warren/mesh/reason"
	"github.com/warren-mesh/warren/ztunnel/accesslog"
	"github.com/warren-mesh/warren/ztunnel/metrics"
	"github.com/warren-mesh/warren/ztunnel/tracing"
)

// BenchmarkTelemetry is what telemetry costs one connection, from its beginning to its end, without the connection.
func BenchmarkTelemetry(b *testing.B) {
	for _, bb := range []struct {
		name string
		log  mesh.AccessLogMode
		span float64
	}{{"metrics", mesh.AccessLogOff, 0}, {"and the log", mesh.AccessLogAll, 0}, {"and 1 % of spans", mesh.AccessLogAll, 1}, {"and all spans", mesh.AccessLogAll, 100}} {
		b.Run(bb.name, func(b *testing.B) {
			m, err := metrics.New(metrics.Config{})
			if err != nil {
				b.Fatal(err)
			}
			store := mesh.NewStore()
			log := accesslog.New(io.Discard, accesslog.Text)
			log.Configure(mesh.AccessLog{Mode: bb.log})
			t := tracing.New(tracing.Config{Store: store, Dial: func(ctx context.Context, _ netip.AddrPort) (net.Conn, error) {
				return nil, errors.New("nobody there")
			}})
			go func() { _ = t.Run(b.Context()) }()
			go func() { _ = log.Run(b.Context()) }()
			if bb.span > 0 { // to nobody: what is measured is the connection's part
				store.Apply(mesh.PutConfig{Config: &mesh.Config{Tracing: mesh.Tracing{Zipkin: "http://192.0.2.1", SamplePercent: bb.span}}})
				for !t.On() {
					time.Sleep(time.Millisecond)
				}
			}
			p := New(Config{Store: store, Metrics: m, AccessLog: log, Tracer: t})
			w := &mesh.Workload{Namespace: "shop", Name: "web-1", WorkloadName: "web", ServiceAccount: "web"}
			p.mu.Lock()
			pd := p.podLocked("uid")
			p.mu.Unlock()
			b.ReportAllocs()
			for b.Loop() {
				c, err := p.begin(pd.life, pd, metrics.Source, facts{direction: outbound, source: w, destination: w, reason: reason.Tunnel, mutual: true, span: p.newTrace()}, nil)
				if err != nil {
					b.Fatal(err)
				}
				c.established()
				c.moved.up.Add(64)
				c.finish(nil)
			}
		})
	}
}
