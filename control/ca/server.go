// SPDX-License-Identifier: Apache-2.0

package ca

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"fmt"
	"net"
	"sync"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/keepalive"
	security "istio.io/api/security/v1alpha1"

	"github.com/warren-mesh/warren/mesh"
)

// control's own place in the mesh: nodes verify its server certificate by this identity.
const (
	ControlNamespace      = "warren-system"
	ControlServiceAccount = "warren-control"
)

// drainTime is how long calls under way may go on when the server stops.
const drainTime = 2 * time.Second

// Bounds on what strangers can make the server hold before they proved anything.
const (
	maxMessage    = 2 * MaxCSR
	maxHeaders    = 16 << 10
	maxStreams    = 32
	handshakeTime = 10 * time.Second
)

// Serve answers certificate requests on l, with TLS by the authority's own certificate, until ctx ends; then
// calls under way get a moment to finish. It closes l. serving, when not nil, is called once calls are answered.
func (s *Service) Serve(ctx context.Context, l net.Listener, serving func()) error {
	own := &serverCert{authority: s.cfg.Authority, now: s.cfg.Now}
	if _, err := own.get(nil); err != nil {
		_ = l.Close()
		return fmt.Errorf("serve CA: %w", err)
	}
	g := grpc.NewServer(
		grpc.Creds(credentials.NewTLS(&tls.Config{
			MinVersion:             tls.VersionTLS13,
			NextProtos:             []string{"h2"},
			SessionTicketsDisabled: true,
			GetCertificate:         own.get,
		})),
		grpc.MaxRecvMsgSize(maxMessage), grpc.MaxHeaderListSize(maxHeaders), grpc.MaxConcurrentStreams(maxStreams),
		grpc.ConnectionTimeout(handshakeTime),
		grpc.KeepaliveParams(keepalive.ServerParameters{MaxConnectionIdle: 5 * time.Minute, Time: 30 * time.Second, Timeout: 10 * time.Second}),
		grpc.KeepaliveEnforcementPolicy(keepalive.EnforcementPolicy{MinTime: 5 * time.Second}),
	)
	security.RegisterIstioCertificateServiceServer(g, s)
	stopped := context.AfterFunc(ctx, func() {
		t := time.AfterFunc(drainTime, g.Stop)
		defer t.Stop()
		g.GracefulStop()
	})
	defer stopped()
	if serving != nil {
		serving()
	}
	if err := g.Serve(l); err != nil && ctx.Err() == nil { // it may have been stopped before it began
		return fmt.Errorf("serve CA: %w", err)
	}
	return nil
}

// serverCert is control's own certificate, issued by its own authority and renewed at half its life. It follows its
// signer at once: by the former's root it might soon be verified no longer.
type serverCert struct {
	authority *Authority
	now       func() time.Time

	mu     sync.Mutex
	cert   *tls.Certificate
	signer *x509.Certificate
	renew  time.Time
}

func (c *serverCert) get(*tls.ClientHelloInfo) (*tls.Certificate, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	now := c.now()
	m := c.authority.current.Load()
	if c.cert != nil && now.Before(c.renew) && c.signer.Equal(m.signing.cert) {
		return c.cert, nil
	}
	key, err := newKey()
	if err != nil {
		return nil, err
	}
	id := mesh.Identity{TrustDomain: c.authority.TrustDomain(), Namespace: ControlNamespace, ServiceAccount: ControlServiceAccount}
	var names []string
	if m.names {
		names = serverNames()
	}
	issued, err := c.authority.Issue(id, key.Public(), 0, names...)
	if err != nil {
		return nil, err
	}
	cert := &tls.Certificate{PrivateKey: key, Leaf: issued.Leaf}
	for _, p := range issued.Chain[:len(issued.Chain)-1] { // without the roots: whoever trusts them has them
		block, _ := pem.Decode([]byte(p))
		cert.Certificate = append(cert.Certificate, block.Bytes)
	}
	c.cert, c.signer, c.renew = cert, issued.signer, now.Add(issued.Leaf.NotAfter.Sub(now)/2)
	return cert, nil
}

// serverNames are the DNS names under which clients of other meshes' habits verify control.
func serverNames() []string {
	n := ControlServiceAccount
	return []string{n, n + "." + ControlNamespace, n + "." + ControlNamespace + ".svc", n + "." + ControlNamespace + ".svc.cluster.local"}
}
