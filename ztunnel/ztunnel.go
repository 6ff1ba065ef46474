// SPDX-License-Identifier: Apache-2.0

// Package ztunnel wires the L4 tunnel of one node: it carries the connections of captured pods by mutual TLS
// with each pod's own identity, and enforces L4 policy. It has no privilege: after start-up every socket and
// file comes from the broker.
package ztunnel

import (
	"cmp"
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
	"golang.org/x/net/netutil"
	"golang.org/x/sync/errgroup"

	"github.com/warren-mesh/warren/mesh"
	"github.com/warren-mesh/warren/mesh/localhost"
	"github.com/warren-mesh/warren/mesh/ready"
	"github.com/warren-mesh/warren/mesh/wds"
	"github.com/warren-mesh/warren/mesh/zds"
	"github.com/warren-mesh/warren/ztunnel/accesslog"
	"github.com/warren-mesh/warren/ztunnel/admin"
	"github.com/warren-mesh/warren/ztunnel/identity"
	"github.com/warren-mesh/warren/ztunnel/inpod"
	"github.com/warren-mesh/warren/ztunnel/metrics"
	"github.com/warren-mesh/warren/ztunnel/proxy"
	"github.com/warren-mesh/warren/ztunnel/tracing"
)

// Broker is what ztunnel needs of *inpod.Broker.
type Broker interface {
	inpod.Sockets
	inpod.Files
	Drained(pod string)
	Reopen(pod string)
	Run(context.Context) error
}

// Config of a ztunnel. Broker, the listeners, the logs and Level are required: they exist before the process seals itself.
type Config struct {
	Node        string
	TrustDomain string // default mesh.DefaultTrustDomain
	// CAService and CAPort find the authority: the ready endpoints of that service, at that port of the service.
	CAService mesh.Name
	CAPort    uint16
	// Drain is how long live connections have after Run was told to end; default 25 s.
	Drain time.Duration

	Broker                Broker
	Admin, Metrics, Ready net.Listener
	// AdminSocket serves Admin's pages to those who may enter the run directory; nil: to nobody.
	AdminSocket net.Listener
	AccessLog   *accesslog.Writer
	Log         *slog.Logger
	// Level is what Log obeys; the admin page changes it.
	Level *slog.LevelVar
	// Successor: another ztunnel serves the node. It is left all new connections until the certificates are here.
	Successor bool
	// Sealed: the process may open no file, /proc included, once Run runs.
	Sealed bool
	// Settings are shown by the admin page.
	Settings map[string]string
	Version  string
}

// Names of the readiness tasks.
const (
	taskObjects      = "workload discovery"
	taskPods         = "pods announced"
	taskRoots        = "trust bundle"
	taskCertificates = "certificates"
)

// ZTunnel is one running tunnel.
type ZTunnel struct {
	cfg      Config
	store    *mesh.Store
	ready    *ready.Ready
	registry *prometheus.Registry
	roots    *identity.Roots
	ca       *identity.CAClient
	ids      *identity.Store
	metrics  *metrics.Metrics
	tracer   *tracing.Tracer
	proxy    *proxy.Proxy
	wds      *wds.Client
	zds      *zds.Client
	// podsKnown is closed once the pods of the node have been announced.
	podsKnown chan struct{}
	// certificatesWait is certificatesWait, except in tests.
	certificatesWait time.Duration
}

// New wires a ztunnel; nothing runs yet.
func New(cfg Config) (*ZTunnel, error) {
	cfg.TrustDomain = cmp.Or(cfg.TrustDomain, mesh.DefaultTrustDomain)
	cfg.Drain = cmp.Or(cfg.Drain, 25*time.Second)
	z := &ZTunnel{cfg: cfg, store: mesh.NewStore(), ready: ready.New(taskObjects, taskPods, taskRoots, taskCertificates), registry: prometheus.NewRegistry(), podsKnown: make(chan struct{}), certificatesWait: certificatesWait}
	z.registry.MustRegister(collectors.NewGoCollector())
	z.measureProcess()
	read := func(name string) func(context.Context) ([]byte, error) {
		return func(ctx context.Context) ([]byte, error) { return cfg.Broker.ReadFile(ctx, name) }
	}
	z.roots = identity.NewRoots(read("roots"), read("crl"), cfg.Log)
	aliases := func() []string { return z.store.Snapshot().Config().TrustDomainAliases }
	var err error
	if z.ca, err = identity.NewCAClient(identity.CAConfig{
		Dial: cfg.Broker.DialSelf, Addresses: z.authorities, Token: read("token"), Roots: z.roots,
		Server: mesh.Identity{TrustDomain: cfg.TrustDomain, Namespace: cfg.CAService.Namespace, ServiceAccount: cfg.CAService.Name},
		Own:    aliases,
	}); err != nil {
		return nil, err
	}
	z.ids = identity.New(identity.Config{Fetcher: z.ca, Roots: z.roots, Log: cfg.Log, Registerer: z.registry,
		Own: aliases, Moved: func(id mesh.Identity) { z.proxy.Moved(id) }})
	if z.metrics, err = metrics.New(metrics.Config{Registerer: z.registry, LogDropped: cfg.AccessLog.Dropped}); err != nil {
		return nil, fmt.Errorf("register metrics: %w", err)
	}
	z.tracer = tracing.New(tracing.Config{
		Store: z.store, Dial: cfg.Broker.DialSelf, Node: cfg.Node, Version: cfg.Version, Log: cfg.Log, Registerer: z.registry,
	})
	z.proxy = proxy.New(proxy.Config{
		Store: z.store, Sockets: cfg.Broker, Identities: z.ids, Metrics: z.metrics, AccessLog: cfg.AccessLog, Tracer: z.tracer, Log: cfg.Log,
		Node: cfg.Node, TrustDomain: cfg.TrustDomain, Drain: cfg.Drain, Held: cfg.Successor,
	})
	discovery := metrics.NewDiscovery(z.registry)
	z.wds = wds.NewClient(wds.ClientConfig{Node: "ztunnel~" + cfg.Node, MaxBackoff: agentBackoff, Log: cfg.Log, Heard: discovery.Heard, Lost: discovery.Lost})
	z.zds = zds.NewClient(zds.ClientConfig{MaxBackoff: agentBackoff, Log: cfg.Log})
	return z, nil
}

// Run serves until ctx ends, then drains, and returns nil; or the first part's failure.
func (z *ZTunnel) Run(ctx context.Context) error {
	// What the last connections still need outlives ctx until they are drained.
	supplies, stop := context.WithCancel(context.WithoutCancel(ctx))
	defer stop()
	logging, stopLogging := context.WithCancel(context.WithoutCancel(ctx))
	defer stopLogging()

	g, failed := errgroup.WithContext(supplies)
	until := func(name string, ctx context.Context, run func(context.Context) error) {
		g.Go(func() error {
			if err := run(ctx); err != nil && ctx.Err() == nil {
				return fmt.Errorf("%s: %w", name, err)
			}
			return nil
		})
	}
	until("broker", failed, z.cfg.Broker.Run)
	until("certificates", failed, z.runCertificates)
	until("workload discovery", failed, func(ctx context.Context) error { return z.wds.Run(ctx, z.dial("wds"), z.store) })
	until("pods", failed, func(ctx context.Context) error { return z.zds.Run(ctx, z.dial("zds"), newPods(z)) })
	until("readiness", failed, z.watchReady)
	until("takeover", failed, z.takeOver)
	until("admin", failed, serve(z.cfg.Admin, localhost.Only(z.pages()), z.cfg.Log))
	if z.cfg.AdminSocket != nil {
		until("admin socket", failed, serve(z.cfg.AdminSocket, localhost.Only(z.pages()), z.cfg.Log))
	}
	until("metrics", failed, serve(z.cfg.Metrics, z.metricsPage(), z.cfg.Log))
	until("readiness page", failed, serve(z.cfg.Ready, z.readyPage(), z.cfg.Log))
	until("telemetry", failed, z.followTelemetry)
	until("access log", logging, z.cfg.AccessLog.Run)
	until("tracing", logging, z.tracer.Run)

	serving, end := context.WithCancel(ctx)
	defer end()
	context.AfterFunc(failed, end)
	g.Go(func() error {
		err := z.proxy.Run(serving)
		stop()
		stopLogging()
		return err
	})
	err := g.Wait()
	return errors.Join(err, z.ca.Close())
}

func (z *ZTunnel) dial(name string) func(context.Context) (net.Conn, error) {
	return func(ctx context.Context) (net.Conn, error) { return z.cfg.Broker.Unix(ctx, name) }
}

// agentBackoff is the longest pause between attempts to reach the agent. It is on this node and serves one ztunnel:
// there is no crowd to spread, and new pods wait for it.
const agentBackoff = time.Second

// pageConnections bounds the connections of one page, in each of which a stranger may keep still: the descriptors
// are those of the data path.
const pageConnections = 64

// serve runs a server on l until ctx ends.
func serve(l net.Listener, h http.Handler, log *slog.Logger) func(context.Context) error {
	return func(ctx context.Context) error {
		s := admin.NewServer(h, log)
		defer context.AfterFunc(ctx, func() { _ = s.Close() })()
		if err := s.Serve(netutil.LimitListener(l, pageConnections)); !errors.Is(err, http.ErrServerClosed) {
			return err
		}
		return nil
	}
}

func (z *ZTunnel) pages() http.Handler {
	return admin.Handler(admin.Sources{
		Node: z.cfg.Node, Version: z.cfg.Version, Settings: z.cfg.Settings, Snapshot: z.store.Snapshot,
		Certificates: z.ids.Certificates, Pods: z.proxy.Pods, Top: z.proxy.Top, Level: z.cfg.Level, DefaultLevel: z.cfg.Level.Level(),
		Sealed: z.cfg.Sealed,
	})
}

func (z *ZTunnel) metricsPage() http.Handler {
	mux := http.NewServeMux()
	h := promhttp.HandlerFor(z.registry, promhttp.HandlerOpts{ErrorLog: slog.NewLogLogger(z.cfg.Log.Handler(), slog.LevelWarn)})
	mux.Handle("/metrics", h)
	mux.Handle("/stats/prometheus", h)
	return mux
}

func (z *ZTunnel) readyPage() http.Handler {
	mux := http.NewServeMux()
	mux.Handle("/healthz/ready", z.ready)
	return mux
}
