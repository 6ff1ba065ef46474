// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"os"
	"sync/atomic"

	otlp "go.opentelemetry.io/proto/slim/otlp/collector/trace/v1"
	"google.golang.org/grpc"
)

// collect is an OpenTelemetry collector that counts spans and forgets them. For each line of its standard input it says
// how many there were. What it costs is in no figure.
func collect(address string) error {
	l, err := net.Listen("tcp", address)
	if err != nil {
		return err
	}
	var c collector
	s := grpc.NewServer()
	s.RegisterService(&grpc.ServiceDesc{
		ServiceName: "opentelemetry.proto.collector.trace.v1.TraceService", HandlerType: (*any)(nil),
		Methods: []grpc.MethodDesc{{MethodName: "Export", Handler: c.export}},
	}, &c)
	fmt.Println(readyLine)
	go func() { // an orphan ends with whoever started it
		defer s.Stop()
		out := json.NewEncoder(os.Stdout)
		for in := bufio.NewReader(os.Stdin); ; {
			if _, err := in.ReadString('\n'); err != nil || out.Encode(outcome{Operations: c.spans.Load()}) != nil {
				return
			}
		}
	}()
	if err := s.Serve(l); err != nil && err != io.EOF {
		return err
	}
	return nil
}

type collector struct{ spans atomic.Int64 }

func (c *collector) export(_ any, _ context.Context, decode func(any) error, _ grpc.UnaryServerInterceptor) (any, error) {
	var r otlp.ExportTraceServiceRequest
	if err := decode(&r); err != nil {
		return nil, err
	}
	for _, resource := range r.ResourceSpans {
		for _, scope := range resource.ScopeSpans {
			c.spans.Add(int64(len(scope.Spans)))
		}
	}
	return &otlp.ExportTraceServiceResponse{}, nil
}
