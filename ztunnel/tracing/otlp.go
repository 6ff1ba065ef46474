// SPDX-License-Identifier: Apache-2.0

package tracing

import (
	"context"
	"net"
	"strings"
	"time"

	collector "go.opentelemetry.io/proto/slim/otlp/collector/trace/v1"
	common "go.opentelemetry.io/proto/slim/otlp/common/v1"
	resource "go.opentelemetry.io/proto/slim/otlp/resource/v1"
	trace "go.opentelemetry.io/proto/slim/otlp/trace/v1"
	"google.golang.org/grpc"
	"google.golang.org/grpc/backoff"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/status"
)

// otlp is an OpenTelemetry collector, by OTLP over gRPC.
type otlp struct {
	conn    *grpc.ClientConn
	node    string
	version string
}

const exportMethod = "/opentelemetry.proto.collector.trace.v1.TraceService/Export"

// newOTLP connects to host:port when it first has something to say.
func newOTLP(endpoint, node, version string, dial func(ctx context.Context, hostPort string) (net.Conn, error)) (*otlp, error) {
	// passthrough: names are never resolved, the dialer knows the mesh's services.
	conn, err := grpc.NewClient("passthrough:///"+endpoint,
		grpc.WithContextDialer(dial), grpc.WithAuthority(endpoint), grpc.WithNoProxy(), grpc.WithDisableServiceConfig(), grpc.WithDisableRetry(),
		grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithConnectParams(grpc.ConnectParams{Backoff: backoff.Config{BaseDelay: time.Second, Multiplier: 1.6, Jitter: 0.2, MaxDelay: longestPause}, MinConnectTimeout: answerTime}),
		grpc.WithIdleTimeout(time.Minute), grpc.WithUserAgent("warren-ztunnel"),
		grpc.WithDefaultCallOptions(grpc.MaxCallRecvMsgSize(64<<10)),
	)
	if err != nil {
		return nil, err
	}
	return &otlp{conn, node, version}, nil
}

func (o *otlp) close() { _ = o.conn.Close() }

func (o *otlp) send(ctx context.Context, spans []*Span) (refused int, err error) {
	var answer collector.ExportTraceServiceResponse
	err = o.conn.Invoke(ctx, exportMethod, &collector.ExportTraceServiceRequest{ResourceSpans: o.encode(spans)}, &answer)
	switch status.Code(err) {
	case codes.OK:
		return int(answer.GetPartialSuccess().GetRejectedSpans()), nil
	case codes.Canceled, codes.DeadlineExceeded, codes.Aborted, codes.OutOfRange, codes.Unavailable, codes.DataLoss, codes.ResourceExhausted:
		return 0, err // the specification's list of what to try again
	}
	return 0, &permanentError{err}
}

// encode sorts spans by the pod they tell of: each is a resource.
func (o *otlp) encode(spans []*Span) []*trace.ResourceSpans {
	var out []*trace.ResourceSpans
	byPeer := map[Peer]*trace.ScopeSpans{}
	for _, s := range spans {
		scope := byPeer[s.Local]
		if scope == nil {
			scope = &trace.ScopeSpans{Scope: &common.InstrumentationScope{Name: "warren-ztunnel", Version: o.version}}
			byPeer[s.Local] = scope
			out = append(out, &trace.ResourceSpans{Resource: &resource.Resource{Attributes: o.resource(&s.Local)}, ScopeSpans: []*trace.ScopeSpans{scope}})
		}
		scope.Spans = append(scope.Spans, encodeSpan(s))
	}
	return out
}

func (o *otlp) resource(p *Peer) (out []*common.KeyValue) {
	word := func(key, v string) {
		if v != "" {
			out = append(out, attribute(key, v))
		}
	}
	name := p.Service
	if name == "" {
		name = "unknown_service:warren-ztunnel" // as the conventions want of whoever has no name
	}
	word("service.name", name)
	word("service.namespace", p.Namespace)
	word("service.version", p.Version)
	word("k8s.cluster.name", p.Cluster)
	word("k8s.namespace.name", p.Namespace)
	word("k8s.node.name", o.node)
	word("k8s.pod.name", p.Pod)
	word("k8s.pod.uid", p.PodUID)
	switch p.WorkloadType {
	case "deployment", "statefulset", "daemonset", "job", "cronjob":
		word("k8s."+p.WorkloadType+".name", p.Workload)
	}
	return out
}

func encodeSpan(s *Span) *trace.Span {
	out := &trace.Span{
		TraceId: s.Context.Trace[:], SpanId: s.Context.Span[:], Name: s.Name(), Kind: trace.Span_SPAN_KIND_CLIENT,
		StartTimeUnixNano: uint64(s.Start.UnixNano()), EndTimeUnixNano: uint64(s.End.UnixNano()), Flags: 1, // sampled
	}
	if s.Kind == Server {
		out.Kind = trace.Span_SPAN_KIND_SERVER
	}
	if s.Parent != ([8]byte{}) {
		out.ParentSpanId = s.Parent[:]
	}
	s.attributes(func(key string, v any) { out.Attributes = append(out.Attributes, attribute(key, v)) })
	if s.Err != nil {
		out.Status = &trace.Status{Code: trace.Status_STATUS_CODE_ERROR, Message: strings.ToValidUTF8(s.Err.Error(), "\uFFFD")}
	}
	return out
}

// attribute makes text valid UTF-8, for a message with a single wrong byte in it is refused whole.
func attribute(key string, v any) *common.KeyValue {
	value := &common.AnyValue{}
	switch v := v.(type) {
	case string:
		value.Value = &common.AnyValue_StringValue{StringValue: strings.ToValidUTF8(v, "\uFFFD")}
	case int64:
		value.Value = &common.AnyValue_IntValue{IntValue: v}
	}
	return &common.KeyValue{Key: key, Value: value}
}
