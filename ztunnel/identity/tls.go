// SPDX-License-Identifier: Apache-2.0

package identity

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"slices"
	"time"

	"github.com/warren-mesh/warren/mesh"
	"github.com/warren-mesh/warren/mesh/reason"
)

const alpn = "h2"

// base is what both sides share. Cipher suites of TLS 1.3 can't be chosen in Go; with AES in hardware on
// either side it takes AES-GCM. Curves: the standard library keeps to its own order, which begins with the
// hybrid one; the list says which are spoken at all.
func (s *Store) base() *tls.Config {
	return &tls.Config{
		MinVersion:             tls.VersionTLS13,
		MaxVersion:             tls.VersionTLS13,
		NextProtos:             []string{alpn},
		CurvePreferences:       []tls.CurveID{tls.X25519MLKEM768, tls.X25519, tls.CurveP256},
		SessionTicketsDisabled: true, // every connection proves its peer anew
		Time:                   s.cfg.Now,
	}
}

// ClientConfig returns the configuration for connections of source to a server that must carry one of the
// expected SPIFFE URIs. It waits for source's certificate, at most until ctx ends or 10 s. The certificate
// is picked at each handshake, so a configuration stays good across renewals.
func (s *Store) ClientConfig(ctx context.Context, source mesh.Identity, expected []string) (*tls.Config, error) {
	if len(expected) == 0 {
		return nil, failure(reason.IdentityMismatch, "dial as %s: no identity expected of the server", source)
	}
	e, err := s.acquire(ctx, source)
	if err != nil {
		return nil, err
	}
	expected = slices.Clone(expected)
	c := s.base()
	// Names are not what identifies a server here; VerifyConnection below does all of the verification.
	c.InsecureSkipVerify = true
	c.GetClientCertificate = func(*tls.CertificateRequestInfo) (*tls.Certificate, error) { return e.show(s.cfg.Now()) }
	c.VerifyConnection = func(cs tls.ConnectionState) error {
		return s.verifyServer(cs, source.TrustDomain, expected, s.cfg.Now())
	}
	return c, nil
}

// ServerConfig returns the configuration for connections to own: a client must show a certificate with a
// workload identity of own's trust domain, or of one of its aliases. It waits like ClientConfig.
func (s *Store) ServerConfig(ctx context.Context, own mesh.Identity) (*tls.Config, error) {
	e, err := s.acquire(ctx, own)
	if err != nil {
		return nil, err
	}
	return e.server, nil
}

func (s *Store) serverConfig(e *entry) *tls.Config {
	c := s.base()
	c.ClientAuth = tls.RequireAnyClientCert // verified below, against roots that change
	c.GetCertificate = func(*tls.ClientHelloInfo) (*tls.Certificate, error) { return e.show(s.cfg.Now()) }
	c.VerifyConnection = func(cs tls.ConnectionState) error { return s.verifyClient(cs, e.id.TrustDomain, s.cfg.Now()) }
	return c
}

func (s *Store) verifyServer(cs tls.ConnectionState, own string, expected []string, now time.Time) error {
	if err := s.verifyChain(cs, x509.ExtKeyUsageServerAuth, now); err != nil {
		return err
	}
	for _, u := range cs.PeerCertificates[0].URIs {
		if s.cfg.Own.expected(own, u.String(), expected) {
			return nil
		}
	}
	return failure(reason.IdentityMismatch, "verify server: it is %v, expected one of %v", cs.PeerCertificates[0].URIs, expected)
}

func (s *Store) verifyClient(cs tls.ConnectionState, own string, now time.Time) error {
	if err := s.verifyChain(cs, x509.ExtKeyUsageClientAuth, now); err != nil {
		return err
	}
	id, err := svid(cs.PeerCertificates[0])
	if err != nil {
		return failure(reason.IdentityMismatch, "verify client: %w", err)
	}
	if !s.cfg.Own.has(own, id.TrustDomain) {
		return failure(reason.IdentityMismatch, "verify client: %s is of another trust domain than %s", id, own)
	}
	return nil
}

// verifyChain checks what does not depend on who the peer should be.
func (s *Store) verifyChain(cs tls.ConnectionState, usage x509.ExtKeyUsage, now time.Time) error {
	if cs.NegotiatedProtocol != alpn {
		return failure(reason.TLSFailure, "verify peer: it negotiated protocol %q, want %q", cs.NegotiatedProtocol, alpn)
	}
	_, err := s.cfg.Roots.verify(cs.PeerCertificates, usage, now)
	return err
}

// Peer returns the identity of the other side of a finished handshake.
func (s *Store) Peer(cs tls.ConnectionState) (mesh.Identity, error) {
	if len(cs.PeerCertificates) == 0 {
		return mesh.Identity{}, failure(reason.TLSFailure, "identify peer: it showed no certificate")
	}
	id, err := svid(cs.PeerCertificates[0])
	if err != nil {
		return mesh.Identity{}, failure(reason.IdentityMismatch, "identify peer: %w", err)
	}
	return id, nil
}
