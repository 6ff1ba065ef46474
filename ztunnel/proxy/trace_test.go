// SPDX-License-Identifier: Apache-2.0

package proxy

import (
	"context"
	"encoding/json"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"sync"
	"testing"

	"github.com/warren-mesh/warren/mesh"
	"github.com/warren-mesh/warren/mesh/reason"
	"github.com/warren-mesh/warren/ztunnel/tracing"
)

// spanSeen is a span as Zipkin was sent it.
type spanSeen struct {
	TraceID, ID, ParentID, Kind, Name string
	LocalEndpoint, RemoteEndpoint     struct{ ServiceName string }
	Tags                              map[string]string
}

// collector is a Zipkin server that both nodes' tracers send to.
type collector struct {
	t     *testing.T
	addr  netip.AddrPort
	mu    sync.Mutex
	spans []spanSeen
}

func newCollector(t *testing.T) *collector {
	c := &collector{t: t}
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		var got []spanSeen
		if err := json.NewDecoder(r.Body).Decode(&got); err != nil {
			t.Error(err)
		}
		c.mu.Lock()
		defer c.mu.Unlock()
		c.spans = append(c.spans, got...)
		w.WriteHeader(http.StatusAccepted)
	}))
	t.Cleanup(s.Close)
	c.addr = s.Listener.Addr().(*net.TCPAddr).AddrPort()
	return c
}

// trace gives a node a tracer of its own, at work while the test is.
func (c *collector) trace(cfg *Config) {
	cfg.Tracer = tracing.New(tracing.Config{Store: cfg.Store, Node: cfg.Node, Dial: func(ctx context.Context, dst netip.AddrPort) (net.Conn, error) {
		return new(net.Dialer).DialContext(ctx, "tcp", dst.String())
	}})
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	go func() {
		defer close(done)
		_ = cfg.Tracer.Run(ctx)
	}()
	c.t.Cleanup(func() {
		cancel()
		<-done
	})
}

// on configures the mesh to send it a share of all connections.
func (c *collector) on(m *testMesh, percent float64) {
	cfg := m.store.Snapshot().Config().Clone()
	cfg.Tracing = mesh.Tracing{Zipkin: "http://" + c.addr.String() + "/api/v2/spans", SamplePercent: percent}
	m.store.Apply(mesh.PutConfig{Config: cfg})
	for _, n := range []*node{m.near, m.far} {
		eventually(c.t, "tracing to be on", n.proxy.cfg.Tracer.On)
	}
}

// two waits for the spans of both ends of one connection.
func (c *collector) two() (client, server spanSeen) {
	c.t.Helper()
	eventually(c.t, "two spans", func() bool {
		c.mu.Lock()
		defer c.mu.Unlock()
		return len(c.spans) >= 2
	})
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, s := range c.spans {
		if s.Kind == "CLIENT" {
			client = s
		} else {
			server = s
		}
	}
	if len(c.spans) != 2 || client.ID == "" || server.ID == "" || client.TraceID != server.TraceID || server.ParentID != client.ID || client.ParentID != "" {
		c.t.Errorf("got %+v, want a client's span with the server's below it", c.spans)
	}
	return client, server
}

// TestSpans: both ends of a connection are in one trace, whose id both access logs have, in a tunnel and inside the
// process; what is refused says why.
func TestSpans(t *testing.T) {
	for _, tt := range []struct {
		name    string
		pods    func(t *testing.T, o ...func(*Config)) (*testMesh, *testPod, *testPod)
		near    bool // the server's node
		denied  bool
		carried reason.Reason
	}{
		{"tunnel", pair, false, false, reason.Tunnel},
		{"same node", neighbours, true, false, reason.SameNode},
		{"refused", pair, false, true, reason.PolicyDeny},
		{"refused on the same node", neighbours, true, true, reason.PolicyDeny},
	} {
		t.Run(tt.name, func(t *testing.T) {
			c := newCollector(t)
			m, client, _ := tt.pods(t, c.trace)
			c.on(m, 100)
			m.echo(serverPort)
			if tt.denied {
				m.store.Apply(mesh.PutPolicy{Policy: denyAll()})
				wantReset(t, "client", client.dial(serverPort))
			} else {
				roundTrip(t, client.dial(serverPort), "hello")
			}
			near, far := c.two()
			server := m.far
			if tt.near {
				server = m.near
			}
			for end, logged := range map[string]map[string]any{"client": m.near.logged(map[string]any{"direction": outbound}), "server": server.logged(map[string]any{"direction": inbound})} {
				if logged["trace_id"] != near.TraceID {
					t.Errorf("the %s's access log has %v, want trace %s", end, logged, near.TraceID)
				}
			}
			if far.Tags["warren.reason"] != tt.carried.String() || (far.Tags["error"] != "") != tt.denied || (near.Tags["error"] != "") != tt.denied {
				t.Errorf("tags %v and %v", near.Tags, far.Tags)
			}
			if tt.denied {
				return
			}
			if near.LocalEndpoint.ServiceName == "" || near.LocalEndpoint != far.RemoteEndpoint || near.RemoteEndpoint != far.LocalEndpoint {
				t.Errorf("endpoints: client's %+v, server's %+v", near, far)
			}
			for _, s := range []spanSeen{near, far} {
				if s.Tags["warren.bytes_sent"] != "5" || s.Tags["warren.bytes_received"] != "5" || s.Tags["warren.security"] != "mutual_tls" || s.Tags["warren.source.identity"] == "" || s.Tags["destination.port"] != "8080" {
					t.Errorf("%s: %v", s.Kind, s.Tags)
				}
			}
		})
	}
}

// TestSpansWithoutTunnel: what goes by plain TCP has a span too, without a parent.
func TestSpansWithoutTunnel(t *testing.T) {
	c := newCollector(t)
	m, client, _ := pair(t, c.trace)
	c.on(m, 100)
	const outside = "192.0.2.1:443"
	m.echo(outside)
	roundTrip(t, client.dial(outside), "hello")
	eventually(t, "a span", func() bool {
		c.mu.Lock()
		defer c.mu.Unlock()
		return len(c.spans) == 1
	})
	if s := c.spans[0]; s.Kind != "CLIENT" || s.ParentID != "" || s.Tags["warren.security"] != "none" || s.Tags["destination.address"] != "192.0.2.1" {
		t.Errorf("got %+v", s)
	}
	if l := m.near.logged(map[string]any{"direction": outbound}); l["trace_id"] != c.spans[0].TraceID {
		t.Errorf("logged %v, want trace %s", l, c.spans[0].TraceID)
	}
}

// TestPeerDecidesNothing: of a peer's traceparent only the ids are taken; neither can it have spans made here, nor keep
// them from being made.
func TestPeerDecidesNothing(t *testing.T) {
	peer := tracing.NewContext()
	for _, sampled := range []bool{true, false} {
		peer.Sampled = sampled
		for _, percent := range []float64{0, 100} {
			c := newCollector(t)
			cfg := &Config{Store: mesh.NewStore()}
			c.trace(cfg)
			p := &Proxy{cfg: *cfg}
			if percent > 0 {
				cfg.Store.Apply(mesh.PutConfig{Config: &mesh.Config{Tracing: mesh.Tracing{Zipkin: "http://" + c.addr.String(), SamplePercent: percent}}})
				eventually(t, "tracing to be on", cfg.Tracer.On)
			}
			got, parent := p.continueTrace(peer.Header())
			if got.Sampled != (percent > 0) || got.Trace != peer.Trace || got.Span == peer.Span || (parent == peer.Span) != sampled {
				t.Errorf("at %v %%, a peer that says %v: got %+v below %x", percent, sampled, got, parent)
			}
			if got, parent := p.continueTrace("nonsense"); got.IsZero() || got.Trace == peer.Trace || parent != [8]byte{} {
				t.Errorf("without a trace: got %+v below %x", got, parent)
			}
		}
	}
}
