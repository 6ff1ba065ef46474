// SPDX-License-Identifier: Apache-2.0

package identity

import (
	"context"
	"fmt"
	"net"
	"net/netip"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"google.golang.org/grpc"
	grpcbackoff "google.golang.org/grpc/backoff"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/keepalive"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/structpb"
	security "istio.io/api/security/v1alpha1"

	"github.com/warren-mesh/warren/mesh"
)

// CAConfig of a CAClient; all but TTL, Answer, Server and Now are required.
type CAConfig struct {
	// Dial connects to one address of control.
	Dial func(ctx context.Context, addr netip.AddrPort) (net.Conn, error)
	// Addresses are control's endpoints as known now.
	Addresses func() []netip.AddrPort
	// Token returns what proves this node, called for every request.
	Token func(ctx context.Context) ([]byte, error)
	// Roots verify control's certificate.
	Roots *Roots
	// Server is the identity control must have; zero means warren-system/warren-control of the default trust domain.
	Server mesh.Identity
	// Own are the aliases of Server's trust domain.
	Own Aliases
	// TTL asked for; 0 means 24 h.
	TTL time.Duration
	// Answer is how long one of control's addresses may take to answer; 0 means 4 s.
	Answer time.Duration
	// Now is the clock; nil means time.Now.
	Now func() time.Time
}

// CAClient fetches certificates from control by CreateCertificate. It keeps one connection while there is
// work and moves to the next of control's addresses when one fails. Safe for concurrent use.
type CAClient struct {
	cfg  CAConfig
	conn *grpc.ClientConn
	ca   security.IstioCertificateServiceClient
	turn atomic.Uint32 // which address the next connection tries first

	mu   sync.Mutex
	last net.Conn // the newest connection; there is never another in use
}

var _ Fetcher = (*CAClient)(nil)

const (
	dialTimeout   = 2 * time.Second
	answerTimeout = 4 * time.Second
	idleTime      = time.Minute
	// maxAnswer bounds a response: a chain and a bundle of roots.
	maxAnswer = 256 << 10
)

// NewCAClient returns a client; nothing is dialled before the first Fetch.
func NewCAClient(cfg CAConfig) (*CAClient, error) {
	if cfg.Server.IsZero() {
		cfg.Server = mesh.Identity{TrustDomain: mesh.DefaultTrustDomain, Namespace: "warren-system", ServiceAccount: "warren-control"}
	}
	if cfg.TTL == 0 {
		cfg.TTL = 24 * time.Hour
	}
	if cfg.Answer == 0 {
		cfg.Answer = answerTimeout
	}
	if cfg.Now == nil {
		cfg.Now = time.Now
	}
	c := &CAClient{cfg: cfg}
	var err error
	// passthrough: names are never resolved, the dialer knows the addresses.
	c.conn, err = grpc.NewClient("passthrough:///warren-control",
		grpc.WithContextDialer(c.dial), grpc.WithNoProxy(), grpc.WithDisableServiceConfig(),
		grpc.WithTransportCredentials(credentials.NewTLS(c.tls())),
		grpc.WithConnectParams(grpc.ConnectParams{
			Backoff:           grpcbackoff.Config{BaseDelay: 100 * time.Millisecond, Multiplier: 1.6, Jitter: 0.2, MaxDelay: 2 * time.Second},
			MinConnectTimeout: cfg.Answer,
		}),
		grpc.WithKeepaliveParams(keepalive.ClientParameters{Time: 10 * time.Second, Timeout: 5 * time.Second}),
		grpc.WithIdleTimeout(idleTime), grpc.WithUserAgent("warren-ztunnel"),
		grpc.WithDefaultCallOptions(grpc.MaxCallRecvMsgSize(maxAnswer)),
	)
	if err != nil {
		return nil, fmt.Errorf("make CA client: %w", err)
	}
	c.ca = security.NewIstioCertificateServiceClient(c.conn)
	return c, nil
}

// Close ends the connection; calls under way fail.
func (c *CAClient) Close() error { return c.conn.Close() }

// Fetch asks for a certificate of id. Errors carry control's gRPC status and, in its message, the reason. An
// address that does not answer is left for the next one as long as ctx has time: a machine that lost its
// power refuses nothing, and its connection would look alive for a quarter of an hour.
func (c *CAClient) Fetch(ctx context.Context, id mesh.Identity, csr []byte) ([]string, error) {
	req := &security.IstioCertificateRequest{
		Csr:              string(csr),
		ValidityDuration: int64(c.cfg.TTL / time.Second),
		Metadata: &structpb.Struct{Fields: map[string]*structpb.Value{
			"ImpersonatedIdentity": structpb.NewStringValue(id.String()),
		}},
	}
	for {
		used := c.newest()
		resp, err := c.try(ctx, req)
		if err == nil {
			return resp.GetCertChain(), nil
		}
		if status.Code(err) != codes.DeadlineExceeded || ctx.Err() != nil {
			return nil, fmt.Errorf("create certificate: %w", err)
		}
		c.abandon(used)
	}
}

func (c *CAClient) try(ctx context.Context, req *security.IstioCertificateRequest) (*security.IstioCertificateResponse, error) {
	token, err := c.cfg.Token(ctx)
	if err != nil {
		return nil, fmt.Errorf("read node token: %w", err)
	}
	ctx, cancel := context.WithTimeout(ctx, c.cfg.Answer)
	defer cancel()
	ctx = metadata.AppendToOutgoingContext(ctx, "authorization", "Bearer "+strings.TrimSpace(string(token)))
	return c.ca.CreateCertificate(ctx, req)
}
