// SPDX-License-Identifier: Apache-2.0

package tracing

import (
	"context"
	"encoding/json"
	"errors"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"
	collector "go.opentelemetry.io/proto/slim/otlp/collector/trace/v1"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/warren-mesh/warren/mesh"
	"github.com/warren-mesh/warren/mesh/reason"
)

func TestContext(t *testing.T) {
	c := NewContext()
	c.Sampled = true
	if got := Parse(c.Header()); got != c {
		t.Errorf("Parse(%s): got %+v", c.Header(), got)
	}
	if child := c.Child(); child.Trace != c.Trace || child.Span == c.Span || !child.Sampled {
		t.Errorf("child of %+v: %+v", c, child)
	}
	const trace, span = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"
	for s, want := range map[string]bool{
		"00-" + trace + "-" + span + "-01":                    true,
		"00-" + trace + "-" + span + "-00":                    true,
		"cc-" + trace + "-" + span + "-01-more":               true, // of a version to come
		"cc-" + trace + "-" + span + "-01":                    true,
		"":                                                    false,
		"00-" + trace + "-" + span:                            false,
		"00-" + trace + "-" + span + "-01-more":               false,
		"cc-" + trace + "-" + span + "-01more":                false,
		"ff-" + trace + "-" + span + "-01":                    false,
		"00-" + strings.ToUpper(trace) + "-" + span + "-01":   false,
		"00-" + strings.Repeat("0", 32) + "-" + span + "-01":  false,
		"00-" + trace + "-" + strings.Repeat("0", 16) + "-01": false,
		"00-" + trace[:31] + "x-" + span + "-01":              false,
		"00_" + trace + "-" + span + "-01":                    false,
	} {
		got := Parse(s)
		if got.IsZero() == want {
			t.Errorf("Parse(%q): got %+v", s, got)
		}
		if want && (got.TraceID() != trace || got.Sampled != strings.Contains(s, span+"-01")) {
			t.Errorf("Parse(%q): got %+v", s, got)
		}
	}
}

func FuzzParse(f *testing.F) {
	f.Add(NewContext().Header())
	f.Fuzz(func(t *testing.T, s string) {
		if c := Parse(s); !c.IsZero() && Parse(c.Header()) != c {
			t.Errorf("%q: %+v", s, c)
		}
	})
}

// miscounting takes everything, and says that it refused this many.
type miscounting int64

func (m miscounting) send(context.Context, []*Span) (int, error) { return int(m), nil }
func (miscounting) close()                                       {}

// TestCollectorMiscounts: a collector may say anything of what it refused, and ends no ztunnel by it.
func TestCollectorMiscounts(t *testing.T) {
	for refused, want := range map[int64]float64{-1: 2, 1: 1, 3: 0, -1 << 63: 2, 1<<63 - 1: 0} {
		c := newCounts(nil)
		e := newExporter("otlp", miscounting(refused), c, nil)
		if err := e.once(t.Context(), []*Span{sample(), sample()}); err != nil {
			t.Error(err)
		}
		if got := testutil.ToFloat64(c.exported.WithLabelValues("otlp")); got != want {
			t.Errorf("%d of 2 refused: %v count as taken, want %v", refused, got, want)
		}
	}
}

// TestSampling: the share of traces is the percentage, and both ends agree on each of them.
func TestSampling(t *testing.T) {
	for _, percent := range []float64{0, 0.1, 1, 25, 100} {
		near, far := &Tracer{}, &Tracer{}
		near.now.Store(&active{below: threshold(percent)})
		far.now.Store(&active{below: threshold(percent)})
		const of = 200_000
		n := 0
		for range of {
			c := NewContext()
			if near.Sampled(c.Trace) != far.Sampled(c.Trace) {
				t.Fatal("the ends disagree")
			}
			if near.Sampled(c.Trace) {
				n++
			}
		}
		want := percent / 100 * of
		if slack := want/5 + want*(100-percent)/100*0.1; float64(n) < want-slack || float64(n) > want+slack {
			t.Errorf("%v %%: %d of %d, want about %v", percent, n, of, want)
		}
	}
	if (*Tracer)(nil).Sampled(NewContext().Trace) || new(Tracer).Sampled([16]byte{}) {
		t.Error("sampled while tracing is off")
	}
}

func sample() *Span {
	c := NewContext()
	c.Sampled = true
	start := time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
	return &Span{
		Context: c, Parent: NewContext().Span, Kind: Server, Start: start, End: start.Add(1500 * time.Microsecond),
		Local:  Peer{Pod: "web-1", PodUID: "u1", Namespace: "shop", Workload: "web", WorkloadType: "deployment", Service: "web", Version: "v1", Identity: "spiffe://cluster.local/ns/shop/sa/web"},
		Remote: Peer{Pod: "client-1", Namespace: "shop", Workload: "client", Service: "client", Identity: "spiffe://cluster.local/ns/shop/sa/client"},
		Source: netip.MustParseAddrPort("10.1.0.1:4000"), Destination: netip.MustParseAddrPort("[fd00::2]:8080"), Host: "web.shop.svc.cluster.local",
		Sent: 7, Received: 5, Encrypted: true, Reason: reason.Tunnel,
	}
}

func TestZipkinJSON(t *testing.T) {
	s := sample()
	s.Reason, s.Err = reason.PolicyDeny, errors.New("refused \xff")
	b, err := json.Marshal(encodeZipkin([]*Span{s}))
	if err != nil {
		t.Fatal(err)
	}
	var got []map[string]any
	if err := json.Unmarshal(b, &got); err != nil {
		t.Fatal(err)
	}
	z := got[0]
	for k, want := range map[string]any{"traceId": s.Context.TraceID(), "kind": "SERVER", "name": "tcp web.shop.svc.cluster.local", "duration": 1500.0, "timestamp": 1767323045000000.0} {
		if z[k] != want {
			t.Errorf("%s: got %v, want %v", k, z[k], want)
		}
	}
	local, remote, tags := z["localEndpoint"].(map[string]any), z["remoteEndpoint"].(map[string]any), z["tags"].(map[string]any)
	if local["serviceName"] != "web.shop" || local["ipv6"] != "fd00::2" || local["port"] != 8080.0 || remote["serviceName"] != "client.shop" || remote["ipv4"] != "10.1.0.1" {
		t.Errorf("endpoints %v, %v", local, remote)
	}
	for k, want := range map[string]string{"error": "refused \uFFFD", "error.type": "POLICY_DENY", "warren.bytes_sent": "7", "warren.source.identity": s.Remote.Identity, "warren.destination.workload": "web", "network.type": "ipv6"} {
		if tags[k] != want {
			t.Errorf("tag %s: got %v, want %v", k, tags[k], want)
		}
	}
}

// fakeCollector takes spans, by both protocols, unless it is told otherwise.
type fakeCollector struct {
	mu     sync.Mutex
	fail   error // of OTLP
	reject int64
	status int // of Zipkin
	otlp   []*collector.ExportTraceServiceRequest
	zipkin [][]zipkinSpan
	tries  int
}

func (f *fakeCollector) set(change func(*fakeCollector)) {
	f.mu.Lock()
	defer f.mu.Unlock()
	change(f)
}

// export is the collector's gRPC method, without the package of generated services.
func (f *fakeCollector) export(_ any, _ context.Context, decode func(any) error, _ grpc.UnaryServerInterceptor) (any, error) {
	r := &collector.ExportTraceServiceRequest{}
	if err := decode(r); err != nil {
		return nil, err
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.tries++; f.fail != nil {
		return nil, f.fail
	}
	f.otlp = append(f.otlp, r)
	return &collector.ExportTraceServiceResponse{PartialSuccess: &collector.ExportTracePartialSuccess{RejectedSpans: f.reject}}, nil
}

func (f *fakeCollector) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	b, _ := io.ReadAll(r.Body)
	var spans []zipkinSpan
	err := json.Unmarshal(b, &spans)
	f.mu.Lock()
	defer f.mu.Unlock()
	switch f.tries++; {
	case r.URL.Path != "/api/v2/spans" || r.Method != http.MethodPost || r.Header.Get("Content-Type") != "application/json" || err != nil:
		w.WriteHeader(http.StatusBadRequest)
	case f.status != 0:
		w.WriteHeader(f.status)
	default:
		f.zipkin = append(f.zipkin, spans)
		w.WriteHeader(http.StatusAccepted)
	}
}

// listen serves both protocols, and returns the service's ports for them as the mesh has them.
func (f *fakeCollector) listen(t *testing.T) (otlp, zipkin uint16) {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	s := grpc.NewServer()
	s.RegisterService(&grpc.ServiceDesc{ServiceName: "opentelemetry.proto.collector.trace.v1.TraceService", HandlerType: (*any)(nil),
		Methods: []grpc.MethodDesc{{MethodName: "Export", Handler: f.export}}}, f)
	go func() { _ = s.Serve(l) }()
	t.Cleanup(s.Stop)
	h := httptest.NewServer(f)
	t.Cleanup(h.Close)
	port := func(a net.Addr) uint16 { return a.(*net.TCPAddr).AddrPort().Port() }
	return port(l.Addr()), port(h.Listener.Addr())
}

// tracing is a tracer at work, whose collector is the service collector.tracing on 127.0.0.1.
func tracing(t *testing.T, f *fakeCollector, c mesh.Tracing) (*Tracer, *mesh.Store, *prometheus.Registry) {
	t.Helper()
	o, z := f.listen(t)
	name := mesh.Name{Namespace: "tracing", Name: "collector"}
	store, reg := mesh.NewStore(), prometheus.NewRegistry()
	store.Apply(
		mesh.PutService{Service: &mesh.Service{Namespace: name.Namespace, Name: name.Name, Hostname: "collector.tracing.svc.cluster.local", Ports: []mesh.ServicePort{{Port: 4317}, {Port: 9411}}}},
		mesh.PutWorkload{Workload: &mesh.Workload{UID: "w", Namespace: name.Namespace, Name: "collector-1", Ready: true, Addresses: []netip.Addr{netip.MustParseAddr("127.0.0.1")},
			Services: map[mesh.Name]mesh.EndpointPorts{name: {4317: o, 9411: z}}}},
		mesh.PutConfig{Config: &mesh.Config{Tracing: c}},
	)
	tr := New(Config{Store: store, Registerer: reg, Node: "n1", Version: "v1", Dial: func(ctx context.Context, dst netip.AddrPort) (net.Conn, error) {
		return new(net.Dialer).DialContext(ctx, "tcp", dst.String())
	}})
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- tr.Run(ctx) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
	eventually(t, "tracing to start", func() bool { return !c.Enabled() || tr.now.Load() != nil })
	return tr, store, reg
}

func eventually(t *testing.T, what string, done func() bool) {
	t.Helper()
	for deadline := time.Now().Add(20 * time.Second); !done(); time.Sleep(2 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("waited in vain for %s", what)
		}
	}
}

// TestBothProtocols: spans reach collectors found by the name of a Service, grouped by the pod they tell of.
func TestBothProtocols(t *testing.T) {
	f := &fakeCollector{}
	tr, _, reg := tracing(t, f, mesh.Tracing{OTLP: "collector.tracing:4317", Zipkin: "http://collector.tracing.svc.cluster.local:9411/api/v2/spans", SamplePercent: 100})
	one, two, other := sample(), sample(), sample()
	two.Err, two.Reason, two.Policy = errors.New("broken \xff"), reason.PolicyDeny, "shop/deny"
	other.Local.Pod, other.Kind, other.Parent = "cart-1", Client, [8]byte{}
	for _, s := range []*Span{one, two, other} {
		tr.Export(s)
	}
	eventually(t, "both collectors", func() bool {
		return count(reg, "warren_spans_exported_total") == 6
	})
	f.mu.Lock()
	defer f.mu.Unlock()
	if len(f.zipkin) != 1 || len(f.zipkin[0]) != 3 || len(f.otlp) != 1 || len(f.otlp[0].ResourceSpans) != 2 {
		t.Fatalf("Zipkin got %v, OTLP %v", f.zipkin, f.otlp)
	}
	web := f.otlp[0].ResourceSpans[0]
	got := map[string]string{}
	for _, a := range web.Resource.Attributes {
		got[a.Key] = a.Value.GetStringValue()
	}
	for k, want := range map[string]string{"service.name": "web", "service.namespace": "shop", "k8s.pod.name": "web-1", "k8s.node.name": "n1", "k8s.deployment.name": "web"} {
		if got[k] != want {
			t.Errorf("resource's %s: got %q, want %q", k, got[k], want)
		}
	}
	spans := web.ScopeSpans[0].Spans
	if len(spans) != 2 || string(spans[0].TraceId) != string(one.Context.Trace[:]) || string(spans[0].ParentSpanId) != string(one.Parent[:]) || spans[0].Kind.String() != "SPAN_KIND_SERVER" || spans[0].Status != nil {
		t.Errorf("spans %v", spans)
	}
	if spans[1].Status.GetCode().String() != "STATUS_CODE_ERROR" || spans[1].Status.GetMessage() != "broken \uFFFD" {
		t.Errorf("status %v", spans[1].Status)
	}
	if s := f.otlp[0].ResourceSpans[1].ScopeSpans[0].Spans[0]; s.Kind.String() != "SPAN_KIND_CLIENT" || s.ParentSpanId != nil {
		t.Errorf("client's span %v", s)
	}
}

func count(reg *prometheus.Registry, name string) (sum float64) {
	families, _ := reg.Gather()
	for _, f := range families {
		if f.GetName() == name {
			for _, m := range f.GetMetric() {
				sum += m.GetCounter().GetValue()
			}
		}
	}
	return sum
}

// TestCollectorAway: while a collector can't be reached spans wait, up to a bound, handing one over never blocks, what is
// dropped is counted; when it comes back the others arrive.
func TestCollectorAway(t *testing.T) {
	f := &fakeCollector{fail: status.Error(codes.Unavailable, "away")}
	tr, _, reg := tracing(t, f, mesh.Tracing{OTLP: "collector.tracing:4317", SamplePercent: 100})
	e := tr.now.Load().exporters[0]
	const n = 3 * queueLength
	began := time.Now()
	for i := range n { // of more pods than fill it with their shares
		s := sample()
		s.Remote.PodUID = strconv.Itoa(i % 64)
		tr.Export(s)
	}
	if took := time.Since(began); took > 2*time.Second {
		t.Errorf("to hand over %d spans took %v", n, took)
	}
	eventually(t, "an attempt", func() bool { return count(reg, "warren_spans_export_failures_total") > 0 })
	lost := count(reg, "warren_spans_dropped_total")
	if most := float64(n - queueLength); lost < most-batchLength || lost > most {
		t.Errorf("%v dropped of %d, want about %v", lost, n, most)
	}
	if len(e.queue.out) > queueLength {
		t.Errorf("%d wait", len(e.queue.out))
	}
	f.set(func(f *fakeCollector) { f.fail = nil })
	eventually(t, "the others", func() bool { return count(reg, "warren_spans_exported_total") == n-lost })
}

// TestGivesUp: a batch that is refused for good is dropped at once, one that fails again and again after some attempts,
// and what the collector says it did not take counts as dropped.
func TestGivesUp(t *testing.T) {
	for _, tt := range []struct {
		name, cause string
		fail        error
		reject      int64
		tries       int
		dropped     float64
	}{
		{"malformed", "refused", status.Error(codes.InvalidArgument, "no"), 0, 1, 3},
		{"not spoken there", "refused", status.Error(codes.Unimplemented, "no"), 0, 1, 3},
		{"overloaded", "unreachable", status.Error(codes.ResourceExhausted, "no"), 0, attempts, 3},
		{"in part", "refused", nil, 2, 1, 2},
	} {
		t.Run(tt.name, func(t *testing.T) {
			f, reg := &fakeCollector{fail: tt.fail, reject: tt.reject}, prometheus.NewRegistry()
			port, _ := f.listen(t)
			s, err := newOTLP(netip.AddrPortFrom(netip.MustParseAddr("127.0.0.1"), port).String(), "n", "v", func(ctx context.Context, a string) (net.Conn, error) {
				return new(net.Dialer).DialContext(ctx, "tcp", a)
			})
			if err != nil {
				t.Fatal(err)
			}
			tr := New(Config{Registerer: reg})
			e := newExporter("otlp", s, tr.count, tr.cfg.Log)
			e.pause = func(int) time.Duration { return time.Millisecond }
			e.deliver(t.Context(), []*Span{sample(), sample(), sample()}, 0)
			e.sink.close()
			if f.tries != tt.tries {
				t.Errorf("%d tries, want %d", f.tries, tt.tries)
			}
			if n := testutil.ToFloat64(tr.count.lost.WithLabelValues("otlp", tt.cause)); n != tt.dropped {
				t.Errorf("%v dropped as %s, want %v", n, tt.cause, tt.dropped)
			}
		})
	}
}

// TestConfigurationChanges: tracing goes off, on and elsewhere without the process; what waits is delivered first.
func TestConfigurationChanges(t *testing.T) {
	f := &fakeCollector{}
	tr, store, reg := tracing(t, f, mesh.Tracing{})
	trace := NewContext().Trace
	if tr.Sampled(trace) || tr.now.Load() != nil {
		t.Fatal("tracing is on")
	}
	set := func(c mesh.Tracing) { store.Apply(mesh.PutConfig{Config: &mesh.Config{Tracing: c}}) }
	set(mesh.Tracing{Zipkin: "http://collector.tracing:9411/api/v2/spans", SamplePercent: 100})
	eventually(t, "tracing to start", func() bool { return tr.Sampled(trace) })
	tr.Export(sample())
	set(mesh.Tracing{Zipkin: "http://collector.tracing:9411/api/v2/spans"})
	eventually(t, "tracing to end", func() bool { return !tr.Sampled(trace) })
	eventually(t, "the last span", func() bool { return count(reg, "warren_spans_exported_total") == 1 })
	tr.Export(sample()) // to nobody
	set(mesh.Tracing{Zipkin: "https://collector.tracing:9411", OTLP: "collector.tracing:4317", SamplePercent: 100})
	eventually(t, "tracing to start again", func() bool { return tr.Sampled(trace) })
	if n := len(tr.now.Load().exporters); n != 1 {
		t.Errorf("%d exporters, want none for a URL that can't be served", n)
	}
}

// TestZipkinStatus: what a server says of spans decides whether they are sent again.
func TestZipkinStatus(t *testing.T) {
	for code, permanent := range map[int]bool{http.StatusBadRequest: true, http.StatusNotFound: true, http.StatusFound: true, http.StatusTooManyRequests: false, http.StatusBadGateway: false} {
		f := &fakeCollector{status: code}
		_, port := f.listen(t)
		z := newZipkin("http://collector:9411/api/v2/spans", func(ctx context.Context, a string) (net.Conn, error) {
			if a != "collector:9411" {
				t.Errorf("dials %s", a)
			}
			return new(net.Dialer).DialContext(ctx, "tcp", netip.AddrPortFrom(netip.MustParseAddr("127.0.0.1"), port).String())
		})
		_, err := z.send(t.Context(), []*Span{sample()})
		var p *permanentError
		if err == nil || errors.As(err, &p) != permanent {
			t.Errorf("%d: %v", code, err)
		}
		z.close()
	}
}

func TestResolve(t *testing.T) {
	svc := mesh.Name{Namespace: "tracing", Name: "otel"}
	w := func(uid, ip string, ready bool, c mesh.Capture) mesh.Change {
		return mesh.PutWorkload{Workload: &mesh.Workload{UID: uid, Namespace: "tracing", Name: uid, Ready: ready, Capture: c, Addresses: []netip.Addr{netip.MustParseAddr(ip)},
			Services: map[mesh.Name]mesh.EndpointPorts{svc: {4317: 14317}}}}
	}
	snap := mesh.NewSnapshot().With(
		mesh.PutService{Service: &mesh.Service{Namespace: "tracing", Name: "otel", Hostname: "otel.tracing.svc.example.org", Ports: []mesh.ServicePort{{Port: 4317}}}},
		w("a", "10.0.0.1", true, mesh.Captured), w("b", "10.0.0.2", true, mesh.Outside), w("c", "10.0.0.3", false, mesh.Outside))
	for in, want := range map[string]int{
		"otel.tracing:4317": 2, "otel.tracing.svc:4317": 2, "otel.tracing.svc.example.org:4317": 2, "otel.tracing.svc.example.org.:4317": 2, "192.0.2.1:4317": 1, "[fd00::1]:4317": 1,
		"otel.tracing:4318": -1, "otel:4317": -1, "otel.elsewhere:4317": -1, "otel.tracing.example.org:4317": -1, "otel.tracing": -1, "192.0.2.1:0": -1, "192.0.2.1:http": -1,
	} {
		got, err := resolve(snap, in, "n1")
		if want < 0 && err == nil || want >= 0 && (err != nil || len(got) != want) {
			t.Errorf("%s: got %v, %v; want %d", in, got, err, want)
		}
	}
}

func BenchmarkSampledOff(b *testing.B) {
	tr, c := New(Config{}), NewContext()
	for b.Loop() {
		if tr.Sampled(c.Trace) {
			b.Fatal()
		}
	}
}

func BenchmarkExportToFullQueue(b *testing.B) {
	tr := New(Config{})
	e := newExporter("otlp", nil, tr.count, tr.cfg.Log)
	tr.now.Store(&active{below: 1 << 63, exporters: []*exporter{e}})
	s := sample()
	b.ReportAllocs()
	for b.Loop() {
		tr.Export(s)
	}
}

func BenchmarkEncode(b *testing.B) {
	o, spans := &otlp{}, make([]*Span, batchLength)
	for i := range spans {
		spans[i] = sample()
	}
	b.ReportAllocs()
	for b.Loop() {
		o.encode(spans)
	}
}
