// SPDX-License-Identifier: Apache-2.0

package ca

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math"
	"strings"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/peer"
	"google.golang.org/grpc/status"
	security "istio.io/api/security/v1alpha1"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/warren-mesh/warren/mesh"
	"github.com/warren-mesh/warren/mesh/reason"
)

// ImpersonatedIdentity is the request metadata that names the wanted identity (ambient's node authorizer).
const ImpersonatedIdentity = "ImpersonatedIdentity"

// ServiceConfig of a Service; all fields but Now and Registerer are required.
type ServiceConfig struct {
	Authority *Authority
	Prover    NodeProver
	// Snapshot is the mesh as control sees it now; nil while the objects are not read yet.
	Snapshot   func() *mesh.Snapshot
	Now        func() time.Time
	Log        *slog.Logger
	Registerer prometheus.Registerer
}

// Service answers istio.v1.auth.IstioCertificateService: a node gets certificates for the service accounts of
// the pods scheduled on it, and for nothing else. Every refusal is counted with its reason and
// logged, except that lines which anybody can cause at any rate are bounded.
type Service struct {
	security.UnimplementedIstioCertificateServiceServer
	cfg     ServiceConfig
	rates   *buckets
	lines   *lines
	metrics *metrics
}

var _ security.IstioCertificateServiceServer = (*Service)(nil)

// NewService returns a service over an open authority.
func NewService(cfg ServiceConfig) *Service {
	if cfg.Now == nil {
		cfg.Now = time.Now
	}
	return &Service{cfg: cfg, rates: newBuckets(cfg.Now), lines: newLines(cfg.Now), metrics: newMetrics(cfg.Registerer, cfg.Authority)}
}

// refusal is why a request is not answered: code for the caller, reason and cause for the operator.
type refusal struct {
	code   codes.Code
	reason reason.Reason
	cause  error
}

func (r *refusal) Error() string { return fmt.Sprintf("%s: %v", r.reason, r.cause) }

func refuse(c codes.Code, r reason.Reason, cause error) *refusal {
	return &refusal{code: c, reason: r, cause: cause}
}

// CreateCertificate answers with leaf, intermediate and root bundle, or a gRPC status whose message begins
// with the reason's word.
func (s *Service) CreateCertificate(ctx context.Context, req *security.IstioCertificateRequest) (*security.IstioCertificateResponse, error) {
	start := s.cfg.Now()
	attempt := &attempt{}
	issued, err := s.create(ctx, req, attempt)
	log := s.cfg.Log.With("node", attempt.node, "identity", attempt.id.String(), "src.addr", peerAddr(ctx))
	if err != nil {
		var r *refusal
		if !errors.As(err, &r) {
			r = refuse(codes.Internal, reason.Internal, err)
		}
		s.metrics.refused.WithLabelValues(r.reason.String()).Inc()
		if unsaid, ok := s.lines.take(r.reason); ok {
			if unsaid > 0 {
				log = log.With("unsaid", unsaid) // lines of that reason before this one
			}
			log.Warn("certificate refused", "reason", r.reason.String(), "err", r.cause)
		}
		return nil, status.Error(r.code, r.reason.String()+": "+r.reason.Text())
	}
	s.metrics.issued.Inc()
	log.Info("certificate issued", "serial", serial(issued.Leaf), "not_after", issued.Leaf.NotAfter, "took", s.cfg.Now().Sub(start))
	return &security.IstioCertificateResponse{CertChain: issued.Chain}, nil
}

// attempt is what became known of a request on the way, for the log.
type attempt struct {
	node string
	id   mesh.Identity
}

func (s *Service) create(ctx context.Context, req *security.IstioCertificateRequest, at *attempt) (*Issued, error) {
	// Whoever proves nothing costs no parsing.
	node, err := s.cfg.Prover.Prove(ctx, bearer(ctx))
	if err != nil {
		return nil, refuse(codes.Unauthenticated, reason.NodeUnproven, err)
	}
	at.node = node
	if !s.rates.take(node) {
		return nil, refuse(codes.ResourceExhausted, reason.RateLimit, fmt.Errorf("more than %d at once and %d per second", nodeBurst, nodePerSecond))
	}
	csr, err := ParseCSR([]byte(req.GetCsr()))
	if err != nil {
		return nil, refuse(codes.InvalidArgument, reason.BadCertificateRequest, err)
	}
	if at.id, err = wanted(req, csr); err != nil {
		return nil, err
	}
	if err := checkIdentity(at.id, s.cfg.Authority.TrustDomain()); err != nil {
		return nil, refuse(codes.PermissionDenied, reason.ForeignTrustDomain, err)
	}
	snap := s.cfg.Snapshot()
	if snap == nil {
		return nil, refuse(codes.Unavailable, reason.NotReady, errors.New("objects not read yet"))
	}
	if !onNode(snap, node, at.id) {
		return nil, refuse(codes.PermissionDenied, reason.NotOnNode, errors.New("no enrolled pod of that service account is scheduled there"))
	}
	return s.cfg.Authority.Issue(at.id, csr.PublicKey, ttl(req.GetValidityDuration()))
}

// wanted is the identity asked for: the metadata's, else the request's own; where both name one, the same.
func wanted(req *security.IstioCertificateRequest, csr *CSR) (mesh.Identity, error) {
	name := req.GetMetadata().GetFields()[ImpersonatedIdentity].GetStringValue()
	if name == "" {
		if csr.Identity.IsZero() {
			return csr.Identity, refuse(codes.InvalidArgument, reason.BadCertificateRequest, errors.New("names no identity"))
		}
		return csr.Identity, nil
	}
	id, err := parseIdentity(name)
	if err != nil {
		return id, refuse(codes.InvalidArgument, reason.BadCertificateRequest, err)
	}
	if !csr.Identity.IsZero() && csr.Identity != id {
		return id, refuse(codes.PermissionDenied, reason.IdentityMismatch, fmt.Errorf("metadata names %s, the CSR %s", id, csr.Identity))
	}
	return id, nil
}

// ttl converts seconds without overflow; what is not positive means the default.
func ttl(seconds int64) time.Duration {
	return time.Duration(min(max(seconds, 0), math.MaxInt64/int64(time.Second))) * time.Second
}

// bearer returns the one bearer token of the call, or "".
func bearer(ctx context.Context) string {
	md, _ := metadata.FromIncomingContext(ctx)
	v := md.Get("authorization")
	if len(v) != 1 {
		return ""
	}
	scheme, token, _ := strings.Cut(v[0], " ")
	if !strings.EqualFold(scheme, "bearer") {
		return ""
	}
	return token
}

func peerAddr(ctx context.Context) string {
	if p, ok := peer.FromContext(ctx); ok {
		return p.Addr.String()
	}
	return ""
}
