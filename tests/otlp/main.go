// SPDX-License-Identifier: Apache-2.0

// Command otlp is the OpenTelemetry Collector's own OTLP receiver, with nothing behind it but a page: what it was sent
// since it started, as OTLP's JSON, at GET /spans. It is what tests have for a collector.
//
//	otlp LISTEN-OTLP LISTEN-PAGE
package main

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"os"
	"os/signal"
	"sync"
	"syscall"

	"go.opentelemetry.io/collector/component"
	"go.opentelemetry.io/collector/component/componenttest"
	"go.opentelemetry.io/collector/config/configgrpc"
	"go.opentelemetry.io/collector/config/configoptional"
	"go.opentelemetry.io/collector/consumer"
	"go.opentelemetry.io/collector/pdata/ptrace"
	"go.opentelemetry.io/collector/receiver/otlpreceiver"
	"go.opentelemetry.io/collector/receiver/receivertest"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if err := run(ctx, os.Args[1:]); err != nil {
		fmt.Fprintln(os.Stderr, "otlp:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context, args []string) error {
	if len(args) != 2 {
		return errors.New("want the addresses to listen on, for OTLP over gRPC and for the page")
	}
	var got spans
	next, err := consumer.NewTraces(got.take)
	if err != nil {
		return err
	}
	f := otlpreceiver.NewFactory()
	cfg := f.CreateDefaultConfig().(*otlpreceiver.Config)
	grpc := configgrpc.NewDefaultServerConfig()
	grpc.NetAddr.Endpoint, grpc.NetAddr.Transport = args[0], "tcp"
	cfg.Protocols.GRPC = configoptional.Some(grpc)
	r, err := f.CreateTraces(ctx, receivertest.NewNopSettings(component.MustNewType("otlp")), cfg, next)
	if err != nil {
		return err
	}
	if err := r.Start(ctx, componenttest.NewNopHost()); err != nil {
		return err
	}
	page := &http.Server{Addr: args[1], Handler: &got}
	context.AfterFunc(ctx, func() { _ = page.Close() })
	if err := page.ListenAndServe(); !errors.Is(err, http.ErrServerClosed) {
		return err
	}
	return r.Shutdown(context.WithoutCancel(ctx))
}

// spans is everything that was received.
type spans struct {
	mu  sync.Mutex
	all ptrace.Traces
}

func (s *spans) take(_ context.Context, t ptrace.Traces) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.all == (ptrace.Traces{}) {
		s.all = ptrace.NewTraces()
	}
	t.ResourceSpans().MoveAndAppendTo(s.all.ResourceSpans())
	return nil
}

func (s *spans) ServeHTTP(w http.ResponseWriter, _ *http.Request) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.all == (ptrace.Traces{}) {
		s.all = ptrace.NewTraces()
	}
	b, err := (&ptrace.JSONMarshaler{}).MarshalTraces(s.all)
	if err != nil {
		http.Error(w, err.Error(), http.StatusInternalServerError)
		return
	}
	w.Header().Set("Content-Type", "application/json")
	_, _ = w.Write(b)
}
