// SPDX-License-Identifier: Apache-2.0

package agent

import (
	"context"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"github.com/prometheus/client_golang/prometheus/promhttp"
	"golang.org/x/sync/errgroup"

	"github.com/warren-mesh/warren/agent/cni"
	"github.com/warren-mesh/warren/agent/debug"
	"github.com/warren-mesh/warren/mesh"
	"github.com/warren-mesh/warren/mesh/broker"
	protocol "github.com/warren-mesh/warren/mesh/cni"
	"github.com/warren-mesh/warren/mesh/kube"
	"github.com/warren-mesh/warren/mesh/localhost"
	"github.com/warren-mesh/warren/mesh/ready"
	"github.com/warren-mesh/warren/mesh/wds"
	"github.com/warren-mesh/warren/mesh/zds"
)

// Source is where objects come from: a directory of manifests, or the Kubernetes API.
type Source interface {
	Run(ctx context.Context) error
	Store() *mesh.Store
	// LocalPods returns this node's pods and a channel closed when they change.
	LocalPods() ([]kube.LocalPod, <-chan struct{})
	// Synced is closed when everything there was at the start has been read.
	Synced() <-chan struct{}
	Problems() []kube.Problem
	// Standing is how the cluster's namespaces stand to the mesh.
	Standing() kube.Namespaces
}

// reporter is a Source that says how fresh what it gives is, on the debug page and as metrics.
type reporter interface {
	prometheus.Collector
	Status() kube.SourceStatus
}

// Config of an agent. Node and RunDir are required.
type Config struct {
	Node     string
	RunDir   string
	StateDir string // what outlasts the agent; "": nothing does, and no pod starts while it is away
	// Drain is how long an un-enrolled pod's live connections may last, unless the mesh's configuration says.
	Drain time.Duration

	Install cni.Installer // of the CNI plugin; the zero value: off

	DebugAddress, MetricsAddress, ReadyAddress string

	Version string
	Level   *slog.LevelVar
	Log     *slog.Logger
}

// Validate reports every field that is wrong.
func (c Config) Validate() error {
	if c.Node == "" {
		return fmt.Errorf("agent: --node is required: the name of the Node object this agent runs on")
	}
	if c.RunDir == "" {
		return fmt.Errorf("agent: --run-dir is required")
	}
	if c.Drain < 0 {
		return fmt.Errorf("agent: --drain: %v is negative", c.Drain)
	}
	return nil
}

// Agent is one node's agent. See New.
type Agent struct {
	cfg       Config
	source    Source
	publisher *publisher
	broker    *broker.Client
	zds       *zds.Server
	ready     *ready.Ready
	registry  *prometheus.Registry

	sandboxes sandboxes
	work      chan func()   // for the loop
	ended     chan struct{} // closed when the loop has ended

	serving      chan struct{} // closed when the sockets are there
	pluginSocket string        // the CNI plugin's, from then on

	// The loop's own.
	waiters  map[*waiter]bool
	kept     map[string]*sandbox // in files, by pod uid
	holding  holding
	complete bool // every object could be read once

	mu   sync.Mutex
	pods map[string]*tracked // by pod uid
}

// scrapes at once: each makes the broker read its counters, and every pod can reach the page.
const scrapes = 2

const (
	taskObjects   = "objects-synced"
	taskRanges    = "cluster-ranges-known"
	taskBroker    = "broker-connected"
	taskListeners = "sockets-listening"
)

// New makes an agent that reads objects from source and publishes through p. Nothing happens before Run.
func New(cfg Config, source Source, p kube.Publisher) (*Agent, error) {
	if err := cfg.Validate(); err != nil {
		return nil, err
	}
	a := &Agent{
		cfg: cfg, source: source,
		publisher: newPublisher(p, cfg.Log),
		broker:    broker.NewClient(cfg.RunDir, cfg.Log),
		zds:       zds.NewServer(zds.ServerConfig{Log: cfg.Log}),
		ready:     ready.New(taskObjects, taskRanges, taskBroker, taskListeners),
		registry:  prometheus.NewRegistry(),
		pods:      map[string]*tracked{},
		work:      make(chan func()), ended: make(chan struct{}), waiters: map[*waiter]bool{},
		serving: make(chan struct{}),
	}
	if cfg.StateDir != "" {
		a.sandboxes.dir = filepath.Join(cfg.StateDir, protocol.SandboxesDir)
	}
	a.registry.MustRegister(collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}),
		newCollector(a.countPods, a.publisher.failures, a.broker.Stats))
	if r, ok := source.(reporter); ok {
		a.registry.MustRegister(r)
		a.ready.Why(taskObjects, func() string { return r.Status().Waiting() })
	}
	return a, nil
}

// Run serves until ctx ends, and returns nil then. What it set up in the kernel stays: traffic goes on.
func (a *Agent) Run(ctx context.Context) error {
	g, ctx := errgroup.WithContext(ctx)
	for _, page := range []struct {
		address string
		handler http.Handler
	}{
		{a.cfg.DebugAddress, localhost.Only(debug.Handler(a.sources()))},
		{a.cfg.MetricsAddress, handle("/metrics", promhttp.HandlerFor(a.registry, promhttp.HandlerOpts{MaxRequestsInFlight: scrapes}))},
		{a.cfg.ReadyAddress, handle("/healthz/ready", a.ready)},
	} {
		if page.address == "" {
			continue
		}
		l, err := (&net.ListenConfig{}).Listen(ctx, "tcp", page.address)
		if err != nil {
			return fmt.Errorf("listen on %s: %w", page.address, err)
		}
		g.Go(func() error { return serveHTTP(ctx, l, page.handler) })
	}
	g.Go(func() error { return a.source.Run(ctx) })
	g.Go(func() error { return a.broker.Run(ctx) })
	g.Go(func() error { return a.publisher.Run(ctx) })
	g.Go(func() error { return a.serveDebugSocket(ctx) })
	g.Go(func() error { return a.watchBroker(ctx) })
	g.Go(func() error { return a.keepInstalled(ctx) })
	g.Go(func() error { return a.serveWhenSynced(ctx) })
	return g.Wait()
}

// serveWhenSynced starts what must not speak before it knows the whole: an agent that answered earlier would
// tell ztunnel of an emptier mesh than there is.
func (a *Agent) serveWhenSynced(ctx context.Context) error {
	select {
	case <-a.source.Synced():
	case <-ctx.Done():
		return nil
	}
	a.ready.Done(taskObjects)
	if a.waitForRanges(ctx) != nil {
		return nil // told to stop
	}
	ls, err := listen(ctx, a.cfg.RunDir, a.cfg.Log)
	if err != nil {
		return err
	}
	defer ls.Close()
	a.pluginSocket = ls.cni.Addr().String()
	close(a.serving)
	a.ready.Done(taskListeners)
	sweep(a.cfg.RunDir, a.cfg.Log)

	settings := a.settings()
	a.broker.Configure(settings)
	g, ctx := errgroup.WithContext(ctx)
	server := wds.NewServer(a.source.Store(), a.cfg.Log, "")
	g.Go(func() error { return server.Serve(ctx, ls.wds) })
	g.Go(func() error { return a.zds.Serve(ctx, ls.zds) })
	g.Go(func() error { return a.followSettings(ctx, settings) })
	g.Go(func() error { return a.reconcile(ctx) })
	plugins := cni.NewServer(announcer{a}, a.cfg.Log, a.registry)
	g.Go(func() error { return plugins.Serve(ctx, ls.cni) })
	if a.cfg.StateDir != "" {
		g.Go(func() error { return a.cacheNamespaces(ctx) })
	}
	return g.Wait()
}

// settings is what the mesh's configuration has for the broker.
func (a *Agent) settings() broker.Settings {
	c := a.source.Store().Snapshot().Config()
	return broker.Settings{Exceptions: c.Exceptions, Drain: c.Drain}
}

// followSettings keeps the broker's equal to the mesh's configuration, from what was told on.
func (a *Agent) followSettings(ctx context.Context, told broker.Settings) error {
	for {
		_, changed := a.source.Store().Watch()
		if now := a.settings(); now.Drain != told.Drain || !slices.Equal(now.Exceptions, told.Exceptions) {
			a.cfg.Log.Info("settings", "exceptions", now.Exceptions, "drain", now.Drain)
			a.broker.Configure(now)
			told = now
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return nil
		}
	}
}

// waitForRanges holds everything up while nobody says which addresses are the cluster's: without them an address
// that no object explains yet would count as outside, and be reached in plaintext. It returns nil or ctx's error.
func (a *Agent) waitForRanges(ctx context.Context) error {
	known := func(s *mesh.Snapshot) bool { return len(s.Config().ClusterCIDRs) > 0 }
	if !known(a.source.Store().Snapshot()) {
		a.cfg.Log.Warn("nothing is captured yet: no Node has spec.podCIDRs, there is no ServiceCIDR, and --cluster-cidrs names none")
	}
	if _, err := a.source.Store().Wait(ctx, known); err != nil {
		return err
	}
	a.ready.Done(taskRanges)
	return nil
}

// watchBroker keeps the readiness task true.
func (a *Agent) watchBroker(ctx context.Context) error {
	tick := time.NewTicker(100 * time.Millisecond)
	defer tick.Stop()
	for {
		if a.broker.Connected() {
			a.ready.Done(taskBroker)
		} else {
			a.ready.Undo(taskBroker)
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return nil
		}
	}
}

func handle(path string, h http.Handler) http.Handler {
	mux := http.NewServeMux()
	mux.Handle(path, h)
	return mux
}

func serveHTTP(ctx context.Context, l net.Listener, h http.Handler) error {
	s := &http.Server{Handler: h, ReadHeaderTimeout: 10 * time.Second, IdleTimeout: time.Minute, MaxHeaderBytes: 16 << 10}
	stop := context.AfterFunc(ctx, func() { s.Close() })
	defer stop()
	if err := s.Serve(l); err != nil && ctx.Err() == nil {
		return fmt.Errorf("serve %s: %w", l.Addr(), err)
	}
	return nil
}

// sockets are the agent's unix listeners.
type sockets struct{ wds, zds, cni *net.UnixListener }

// Close closes them and removes their files.
func (s sockets) Close() { s.wds.Close(); s.zds.Close(); s.cni.Close() }

// listen makes the sockets: two that ztunnel reaches through the broker, and the CNI plugin's. It waits for the broker to make the directory.
// The generation in the names lets an old and a new agent stand side by side; the newest is the one dialled.
func listen(ctx context.Context, dir string, log *slog.Logger) (sockets, error) {
	if err := waitForDir(ctx, dir, log); err != nil {
		return sockets{}, err
	}
	gen := newGeneration()
	w, err := listenUnix("unix", filepath.Join(dir, "agent-"+gen+"-wds.sock"))
	if err != nil {
		return sockets{}, err
	}
	z, err := listenUnix("unixpacket", filepath.Join(dir, "agent-"+gen+"-zds.sock"))
	if err != nil {
		w.Close()
		return sockets{}, err
	}
	c, err := cni.Listen(filepath.Join(dir, "agent-"+gen+"-cni.sock"))
	if err != nil {
		w.Close()
		z.Close()
		return sockets{}, err
	}
	return sockets{wds: w, zds: z, cni: c}, nil
}

func listenUnix(network, path string) (*net.UnixListener, error) {
	l, err := net.ListenUnix(network, &net.UnixAddr{Name: path, Net: network})
	if err != nil {
		return nil, fmt.Errorf("listen on %s: %w", path, err)
	}
	if err := os.Chmod(path, 0o660); err != nil {
		l.Close()
		return nil, fmt.Errorf("open %s to the broker's group: %w", path, err)
	}
	return l, nil
}

func waitForDir(ctx context.Context, dir string, log *slog.Logger) error {
	for told := false; ; told = true {
		if _, err := os.Stat(dir); err == nil {
			return nil
		}
		if !told {
			log.Info("waiting for the broker to make its directory", "dir", dir)
		}
		select {
		case <-time.After(50 * time.Millisecond):
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}
