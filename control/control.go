// SPDX-License-Identifier: Apache-2.0

// Package control is the mesh's central part: it runs the certificate authority over the objects it watches
// and publishes the bundle of roots.
package control

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"github.com/prometheus/client_golang/prometheus/promhttp"
	"golang.org/x/sync/errgroup"

	"github.com/warren-mesh/warren/control/ca"
	"github.com/warren-mesh/warren/mesh"
	"github.com/warren-mesh/warren/mesh/ready"
	"github.com/warren-mesh/warren/mesh/retry"
)

// Objects is where control's view of the mesh comes from. Run returns when its context ends, or with an error
// that ends control.
type Objects interface {
	Run(ctx context.Context) error
	Store() *mesh.Store
	// Synced is closed once everything that was there at the start has been read.
	Synced() <-chan struct{}
}

// Publisher makes the authority's word known. Publishing the same again is cheap.
type Publisher interface {
	// PublishTrust puts roots and revocation lists where every node finds them. ca.ErrStale asks for what is read later
	// than t was; any other error makes control not ready.
	PublishTrust(ctx context.Context, t ca.Trust) error
	// PublishProblem tells the operator what is wrong with the authority's files; nil: nothing.
	PublishProblem(ctx context.Context, problem error) error
}

// Config of control. Listeners are made by the caller, so that a port taken is known before anything starts;
// Run closes them.
type Config struct {
	Authority *ca.Authority
	Prover    ca.NodeProver
	Objects   Objects
	Publisher Publisher
	// CA serves CreateCertificate; Metrics /metrics; Ready /healthz/ready.
	CA, Metrics, Ready net.Listener
	// Collectors are further metrics.
	Collectors []prometheus.Collector
	Log        *slog.Logger
}

// Tasks of control's readiness page.
const (
	taskObjects = "objects-synced"
	taskBundle  = "root-bundle-published"
	taskServing = "ca-serving"
)

const (
	// publishInterval is how often the bundle is published again, in case someone removed it; publishRetry how soon
	// at first after that failed.
	publishInterval = 10 * time.Second
	publishRetry    = 500 * time.Millisecond
)

// Run serves until ctx ends or a part fails.
func Run(ctx context.Context, cfg Config) error {
	reg := prometheus.NewRegistry()
	tasks := ready.New(taskObjects, taskBundle, taskServing)
	service := ca.NewService(ca.ServiceConfig{
		Authority: cfg.Authority, Prover: cfg.Prover, Snapshot: SyncedSnapshot(cfg.Objects),
		Log: cfg.Log.With("part", "ca"), Registerer: reg,
	})
	reg.MustRegister(cfg.Collectors...)
	reg.MustRegister(pending(tasks), collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}))

	g, ctx := errgroup.WithContext(ctx)
	g.Go(func() error { return cfg.Objects.Run(ctx) })
	g.Go(func() error { return cfg.Authority.Run(ctx) })
	g.Go(func() error { return publish(ctx, cfg, tasks) })
	g.Go(func() error { return awaitSync(ctx, cfg.Objects, tasks) })
	g.Go(func() error { return service.Serve(ctx, cfg.CA, func() { tasks.Done(taskServing) }) })
	g.Go(func() error { return serveHTTP(ctx, cfg.Metrics, metricsPages(reg)) })
	g.Go(func() error { return serveHTTP(ctx, cfg.Ready, readyPages(tasks)) })
	return g.Wait()
}

// SyncedSnapshot returns the current snapshot, or nil before everything has been read: an authority that knows half
// the pods would refuse the other half for a reason that is not true.
func SyncedSnapshot(o Objects) func() *mesh.Snapshot {
	return func() *mesh.Snapshot {
		select {
		case <-o.Synced():
			return o.Store().Snapshot()
		default:
			return nil
		}
	}
}

func awaitSync(ctx context.Context, o Objects, tasks *ready.Ready) error {
	select {
	case <-ctx.Done():
	case <-o.Synced():
		tasks.Done(taskObjects)
	}
	return nil
}

// publish keeps trust and problem published; a failure is logged once, shown in readiness and tried again.
func publish(ctx context.Context, cfg Config, tasks *ready.Ready) error {
	var trust, problem failure
	for {
		changed := cfg.Authority.Changed()
		err := publishTrust(ctx, cfg)
		switch {
		case ctx.Err() != nil:
			return nil
		case err == nil:
			tasks.Done(taskBundle)
		case !errors.Is(err, ca.ErrStale): // then what another published stands, which is no reason to stop signing
			tasks.Undo(taskBundle)
		}
		trust.note(cfg.Log, "root bundle not published", err)
		if err := cfg.Publisher.PublishProblem(ctx, cfg.Authority.Problem()); ctx.Err() == nil {
			problem.note(cfg.Log, "the authority's state not published", err)
		}
		select {
		case <-ctx.Done():
			return nil
		case <-changed:
		case <-time.After(trust.wait()):
		}
	}
}

// publishTrust publishes what the authority goes by, and has it read its files before where the publisher wants that.
func publishTrust(ctx context.Context, cfg Config) error {
	err := cfg.Publisher.PublishTrust(ctx, cfg.Authority.Trust())
	if !errors.Is(err, ca.ErrStale) {
		return err
	}
	if err := cfg.Authority.Rotate(); err != nil {
		return fmt.Errorf("%w: %w", ca.ErrStale, err)
	}
	return cfg.Publisher.PublishTrust(ctx, cfg.Authority.Trust())
}

// failure is one that may last.
type failure struct {
	told  string
	count int // in a row
}

// note logs err when it is another than before; nil ends the failure.
func (f *failure) note(log *slog.Logger, what string, err error) {
	if err == nil {
		*f = failure{}
		return
	}
	f.count++
	if f.told != err.Error() {
		f.told = err.Error()
		log.Warn(what, "err", err)
	}
}

// wait is how long to leave it until it is tried again.
func (f *failure) wait() time.Duration {
	if f.count == 0 {
		return publishInterval
	}
	return retry.Delay(f.count-1, publishRetry, publishInterval)
}

func pending(tasks *ready.Ready) prometheus.Collector {
	return prometheus.NewGaugeFunc(prometheus.GaugeOpts{
		Name: "warren_ready_pending_tasks", Help: "Tasks the process must finish before it is ready.",
	}, func() float64 { return float64(len(tasks.Pending())) })
}

func metricsPages(reg *prometheus.Registry) http.Handler {
	mux := http.NewServeMux()
	mux.Handle("GET /metrics", promhttp.HandlerFor(reg, promhttp.HandlerOpts{}))
	return mux
}

func readyPages(tasks *ready.Ready) http.Handler {
	mux := http.NewServeMux()
	mux.Handle("GET /healthz/ready", tasks)
	return mux
}

// serveHTTP answers on l until ctx ends; it closes l.
func serveHTTP(ctx context.Context, l net.Listener, h http.Handler) error {
	s := &http.Server{Handler: h, ReadHeaderTimeout: 5 * time.Second, IdleTimeout: time.Minute, MaxHeaderBytes: 16 << 10}
	stop := context.AfterFunc(ctx, func() { _ = s.Close() })
	defer stop()
	if err := s.Serve(l); !errors.Is(err, http.ErrServerClosed) {
		return fmt.Errorf("serve %s: %w", l.Addr(), err)
	}
	return nil
}
