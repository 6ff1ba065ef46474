// SPDX-License-Identifier: Apache-2.0

// Package proxy carries connections: outbound ones of captured pods, HBONE and plaintext ones to them. It
// decides by ztunnel/route and ztunnel/authz and does the I/O. Every connection is one object that ends it,
// logs it and counts it, once.
package proxy

import (
	"cmp"
	"context"
	"crypto/tls"
	"log/slog"
	"net/netip"
	"sync"
	"sync/atomic"
	"time"

	"github.com/warren-mesh/warren/mesh"
	"github.com/warren-mesh/warren/ztunnel/accesslog"
	"github.com/warren-mesh/warren/ztunnel/authz"
	"github.com/warren-mesh/warren/ztunnel/hbone"
	"github.com/warren-mesh/warren/ztunnel/inpod"
	"github.com/warren-mesh/warren/ztunnel/metrics"
	"github.com/warren-mesh/warren/ztunnel/route"
	"github.com/warren-mesh/warren/ztunnel/tracing"
)

// Sockets are what the proxy needs of inpod.
type Sockets interface {
	inpod.Sockets
	// Drained tells the broker that a pod which left the mesh has no connection any more.
	Drained(pod string)
	// Reopen has the broker send a pod's listeners again that were closed here.
	Reopen(pod string)
}

// Identities are what the proxy needs of the certificate store.
type Identities interface {
	Want(mesh.Identity)
	Forget(mesh.Identity)
	ClientConfig(ctx context.Context, source mesh.Identity, expected []string) (*tls.Config, error)
	ServerConfig(ctx context.Context, own mesh.Identity) (*tls.Config, error)
	Peer(tls.ConnectionState) (mesh.Identity, error)
	// TrustChanged is closed at the next change of what is trusted; StillServer and StillClient then judge tunnels.
	TrustChanged() <-chan struct{}
	StillServer(cs tls.ConnectionState, source mesh.Identity, expected []string) error
	StillClient(cs tls.ConnectionState, own mesh.Identity) error
	Mutual(ctx context.Context, client, server mesh.Identity, expected []string) (still func() error, err error)
}

// Config of a Proxy. Store, Sockets, Identities and Metrics are required.
type Config struct {
	Store      *mesh.Store
	Sockets    Sockets
	Identities Identities
	Metrics    *metrics.Metrics
	// AccessLog may be nil.
	AccessLog *accesslog.Writer
	// Tracer takes connections' spans; it may be nil.
	Tracer *tracing.Tracer
	// Log receives life-cycle; nil discards it.
	Log *slog.Logger
	// Node is this ztunnel's node.
	Node string
	// TrustDomain of the pods here; default mesh.DefaultTrustDomain.
	TrustDomain string
	// Drain is how long connections may live on after their pod left or the process was told to end;
	// default 25 s.
	Drain time.Duration
	// Held: nothing is accepted until TakeOver. Another ztunnel accepts from the same listeners meanwhile.
	Held bool
	// PodConnections bounds the connections of one pod, both ways together, and the tunnels to it; default 20,000.
	PodConnections int
	// PodHandshakes bounds the TLS handshakes with one pod's peers that are under way; further ones wait to be
	// accepted. Default 1,024.
	PodHandshakes int
	// ConnectTimeout bounds a TCP connect, a TLS handshake, and the wait for the pod's own certificate, each;
	// default 10 s.
	ConnectTimeout time.Duration
	// HBONE configures tunnels in both roles; its Budget is set for each pod.
	HBONE hbone.Config
	// Now is the clock; nil means time.Now.
	Now func() time.Time

	// originalDestination replaces the kernel's answer in tests.
	originalDestination func(*inpod.Conn) (netip.AddrPort, error)
	// needWait is route.NeedWait, except in tests.
	needWait time.Duration
	// witnessIdle is how long a witness stands that no connection needs; default 30 s.
	witnessIdle time.Duration
	// claimWait is how long a witness may take from its connect to this process's accept; default 2 s. One that did
	// not arrive has its pair go by HBONE for elsewhere; default 10 s.
	claimWait, elsewhere time.Duration
}

const (
	// podBudget bounds the bytes that wait for a pod's slow applications and peers.
	podBudget = 64 << 20
	// openTimeout bounds everything from the application's connect to the far end's 200.
	openTimeout = 45 * time.Second
)

// Proxy serves all pods of one ztunnel.
type Proxy struct {
	cfg  Config
	log  *slog.Logger
	pool *hbone.Pool

	policies authz.Evaluator

	witnesses *witnesses
	workers   *workers

	life context.Context // ends with the last connection's right to live
	end  context.CancelCauseFunc

	nextID atomic.Uint64
	loops  sync.WaitGroup // accept loops and watchers
	work   sync.WaitGroup // connections, and the tunnels they come by
	active atomic.Int64   // what work waits for

	draining     atomic.Bool
	beside       atomic.Bool // another ztunnel may still accept from the same listeners
	trustChanges atomic.Uint64

	mu       sync.Mutex
	pods     map[string]*pod
	wanted   map[mesh.Identity]int
	held     bool // no connections yet
	stopping bool // no new connections
	closed   bool // no new work
}

// New returns a proxy; Run makes it serve.
func New(cfg Config) *Proxy {
	cfg.Drain = cmp.Or(cfg.Drain, 25*time.Second)
	cfg.PodConnections = cmp.Or(cfg.PodConnections, 20000)
	cfg.PodHandshakes = cmp.Or(cfg.PodHandshakes, 1024)
	cfg.ConnectTimeout = cmp.Or(cfg.ConnectTimeout, 10*time.Second)
	cfg.needWait = cmp.Or(cfg.needWait, route.NeedWait)
	cfg.witnessIdle = cmp.Or(cfg.witnessIdle, 30*time.Second)
	cfg.claimWait = cmp.Or(cfg.claimWait, 2*time.Second)
	cfg.elsewhere = cmp.Or(cfg.elsewhere, 10*time.Second)
	cfg.TrustDomain = cmp.Or(cfg.TrustDomain, mesh.DefaultTrustDomain)
	if cfg.Log == nil {
		cfg.Log = slog.New(slog.DiscardHandler)
	}
	if cfg.Now == nil {
		cfg.Now = time.Now
	}
	if cfg.originalDestination == nil {
		cfg.originalDestination = (*inpod.Conn).OriginalDestination
	}
	p := &Proxy{cfg: cfg, log: cfg.Log, pods: map[string]*pod{}, wanted: map[mesh.Identity]int{}, held: cfg.Held}
	p.beside.Store(cfg.Held)
	p.life, p.end = context.WithCancelCause(context.Background())
	p.witnesses, p.workers = newWitnesses(p), newWorkers()
	p.pool = hbone.NewPool(hbone.PoolConfig{Config: cfg.HBONE, PodBudget: p.budget, Trusted: p.trusted})
	cfg.Metrics.Usage(p.use, metrics.Limits{Connections: cfg.PodConnections, Handshakes: cfg.PodHandshakes, Buffered: podBudget})
	return p
}

// Run serves until ctx ends, then drains: no new connections, live ones to their end or the deadline, then
// reset. It returns when the last one ended.
func (p *Proxy) Run(ctx context.Context) error {
	watching, stopWatching := context.WithCancel(context.Background())
	defer stopWatching()
	p.loops.Go(func() { p.recheck(watching) })
	p.loops.Go(func() { p.watchUsage(watching.Done()) })
	for {
		select {
		case e := <-p.cfg.Sockets.Events():
			p.event(e)
		case <-ctx.Done():
			p.drain()
			stopWatching()
			p.loops.Wait()
			return nil
		}
	}
}

// drain ends all connections; new ones wait in the listeners' backlogs for the next ztunnel.
func (p *Proxy) drain() {
	p.draining.Store(true)
	p.mu.Lock()
	p.stopping = true
	pods := make([]*pod, 0, len(p.pods))
	for _, pd := range p.pods {
		pods = append(pods, pd)
	}
	p.mu.Unlock()
	for _, pd := range pods {
		pd.closeListeners()
		pd.goAway()
	}
	p.pool.GoAway()
	drain := p.drainTime()
	p.log.Info("draining", "active", p.active.Load(), "deadline", drain)
	deadline := time.NewTimer(drain)
	defer deadline.Stop()
	idle := time.NewTicker(10 * time.Millisecond)
	defer idle.Stop()
	// Tunnels count too: a stream may be on its way until the peer has answered GOAWAY.
	for over := false; !over && p.active.Load() > 0; {
		select {
		case <-deadline.C:
			over = true
		case <-idle.C:
		}
	}
	p.end(errLeft)
	p.pool.CloseAll()
	p.witnesses.closeAll()
	p.mu.Lock()
	p.closed = true
	p.mu.Unlock()
	p.work.Wait()
	close(p.workers.done)
}
