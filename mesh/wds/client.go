// SPDX-License-Identifier: Apache-2.0

package wds

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"sync"
	"time"

	core "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	discovery "github.com/envoyproxy/go-control-plane/envoy/service/discovery/v3"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"

	"github.com/warren-mesh/warren/mesh"
	"github.com/warren-mesh/warren/mesh/retry"
)

const (
	minBackoff = 10 * time.Millisecond
	maxBackoff = 15 * time.Second
	// maxMessage bounds one response, as ambient does: the first one holds the whole mesh.
	maxMessage = 200 << 20
)

// Dialer opens a connection to the server: a stream socket, without TLS.
type Dialer func(context.Context) (net.Conn, error)

// ClientConfig configures a Client. The zero value is usable.
type ClientConfig struct {
	// Node identifies the client to the server, "ztunnel~<ip>~<pod>.<ns>~<ns>.svc.<domain>" by custom. Optional.
	Node string
	// Foreign: the server is not Warren's and has no TypeConfig; the store keeps the configuration it has.
	Foreign bool
	// MaxBackoff is the longest pause between attempts to connect; zero means 15 s.
	MaxBackoff time.Duration
	// Log; nil discards.
	Log *slog.Logger
	// Heard is called for each response, with its type; Lost for each connection that ended or was not had, with the
	// error and whether the server had said anything on it. Both may be nil.
	Heard func(typeURL string)
	Lost  func(heard bool, err error)
	// Now is the clock for Workload.CapturedAt; nil means time.Now.
	Now func() time.Time
}

// Client keeps a store equal to what a server has. What it knows it keeps while there is no server, and
// tells the next one, which then sends differences only. One client fills one store, and nothing else
// writes to that store.
type Client struct {
	cfg   ClientConfig
	types []string // in the order of subscription: what is referred to first

	// Used by Run alone.
	have    map[string]map[string]string // type, resource name: version
	waiting map[string]bool              // types without a response so far
	ready   chan struct{}
	once    sync.Once
	observe func(*discovery.DeltaDiscoveryResponse) // for tests
}

// NewClient returns a client.
func NewClient(cfg ClientConfig) *Client {
	if cfg.MaxBackoff == 0 {
		cfg.MaxBackoff = maxBackoff
	}
	if cfg.Log == nil {
		cfg.Log = slog.New(slog.DiscardHandler)
	}
	if cfg.Now == nil {
		cfg.Now = time.Now
	}
	if cfg.Heard == nil {
		cfg.Heard = func(string) {}
	}
	if cfg.Lost == nil {
		cfg.Lost = func(bool, error) {}
	}
	c := &Client{
		cfg: cfg, types: []string{TypeConfig, TypeAuthorization, TypeAddress},
		have: make(map[string]map[string]string), waiting: make(map[string]bool), ready: make(chan struct{}),
	}
	if cfg.Foreign {
		c.types = c.types[1:]
	}
	for _, t := range c.types {
		c.have[t], c.waiting[t] = make(map[string]string), true
	}
	return c
}

// Ready is closed once every type has been answered for the first time: the store can be decided from.
func (c *Client) Ready() <-chan struct{} { return c.ready }

// closed stands for a configuration that is not there: no address is taken for one outside the cluster, which would
// be reached in plaintext.
var closed = &mesh.Config{ClusterCIDRs: []netip.Prefix{netip.MustParsePrefix("0.0.0.0/0"), netip.MustParsePrefix("::/0")}}

// Run fills the store until ctx ends, and returns its error. Until the server has said what belongs to the cluster,
// every address does. It opens nothing but what dial returns: no
// name lookup, proxy or service configuration, so it works in a process that may not make sockets.
func (c *Client) Run(ctx context.Context, dial Dialer, store *mesh.Store) error {
	if !c.cfg.Foreign && len(c.have[TypeConfig]) == 0 {
		store.Apply(mesh.PutConfig{Config: closed})
	}
	for failures := 0; ; failures++ {
		heard, err := c.session(ctx, dial, store)
		if ctx.Err() != nil {
			return ctx.Err()
		}
		if heard {
			failures = 0
		}
		c.cfg.Lost(heard, err)
		wait := retry.Delay(failures, minBackoff, c.cfg.MaxBackoff)
		c.cfg.Log.Warn("connection to workload discovery lost", "err", err, "retry", wait)
		if err := retry.Wait(ctx, wait); err != nil {
			return err
		}
	}
}

// session runs one connection and reports whether the server said anything on it.
func (c *Client) session(ctx context.Context, dial Dialer, store *mesh.Store) (heard bool, err error) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	conn, err := dial(ctx)
	if err != nil {
		return false, fmt.Errorf("dial workload discovery: %w", err)
	}
	cc, err := newClientConn(conn)
	if err != nil {
		return false, errors.Join(fmt.Errorf("dial workload discovery: %w", err), conn.Close())
	}
	defer cc.Close()
	ads, err := discovery.NewAggregatedDiscoveryServiceClient(cc).DeltaAggregatedResources(ctx)
	if err != nil {
		return false, fmt.Errorf("open stream: %w", err)
	}
	for i, t := range c.types {
		r := &discovery.DeltaDiscoveryRequest{TypeUrl: t, InitialResourceVersions: c.have[t]}
		if i == 0 {
			r.Node = &core.Node{Id: c.cfg.Node}
		}
		if err := ads.Send(r); err != nil {
			return false, fmt.Errorf("subscribe to %s: %w", t, err)
		}
	}
	c.cfg.Log.Info("connected to workload discovery")
	for {
		r, err := ads.Recv()
		if err != nil {
			return heard, fmt.Errorf("receive: %w", err)
		}
		heard = true
		c.cfg.Heard(r.GetTypeUrl())
		if c.observe != nil {
			c.observe(r)
		}
		if err := ads.Send(c.respond(r, store)); err != nil {
			return heard, fmt.Errorf("acknowledge %s: %w", r.GetTypeUrl(), err)
		}
	}
}

// newClientConn makes a gRPC channel of one connection; once that is lost so is the channel.
func newClientConn(conn net.Conn) (*grpc.ClientConn, error) {
	once := make(chan net.Conn, 1)
	once <- conn
	return grpc.NewClient("passthrough:///workload-discovery",
		grpc.WithContextDialer(func(context.Context, string) (net.Conn, error) {
			select {
			case c := <-once:
				return c, nil
			default:
				return nil, net.ErrClosed
			}
		}),
		grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithNoProxy(),
		grpc.WithDisableServiceConfig(),
		grpc.WithDisableRetry(),
		grpc.WithDefaultCallOptions(grpc.MaxCallRecvMsgSize(maxMessage)),
	)
}
