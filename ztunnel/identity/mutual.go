// SPDX-License-Identifier: Apache-2.0

package identity

import (
	"context"
	"crypto/tls"

	"github.com/warren-mesh/warren/mesh"
	"github.com/warren-mesh/warren/mesh/reason"
)

// Mutual proves what a handshake between client and server would, where both are held here and none takes place: each
// has a certificate that is valid now and that the other would accept, and the server's carries one of the expected
// SPIFFE URIs. It waits for certificates as ClientConfig does, and its errors are those of a handshake. still judges the
// same certificates later, as StillServer and StillClient judge those of a live connection.
func (s *Store) Mutual(ctx context.Context, client, server mesh.Identity, expected []string) (still func() error, err error) {
	c, err := s.shown(ctx, client)
	if err != nil {
		return nil, err
	}
	o, err := s.shown(ctx, server)
	if err != nil {
		return nil, err
	}
	if err := s.verifyServer(o, client.TrustDomain, expected, s.cfg.Now()); err != nil {
		return nil, err
	}
	if err := s.verifyClient(c, server.TrustDomain, s.cfg.Now()); err != nil {
		return nil, err
	}
	return func() error {
		if err := s.StillServer(o, client, expected); err != nil {
			return err
		}
		return s.StillClient(c, server)
	}, nil
}

// shown is what a handshake would show the peer of id.
func (s *Store) shown(ctx context.Context, id mesh.Identity) (tls.ConnectionState, error) {
	e, err := s.acquire(ctx, id)
	if err != nil {
		return tls.ConnectionState{}, err
	}
	c := e.current.Load()
	if !c.valid(s.cfg.Now()) {
		return tls.ConnectionState{}, failure(reason.NoCertificate, "present certificate of %s: none is valid", id)
	}
	return tls.ConnectionState{NegotiatedProtocol: alpn, PeerCertificates: c.chain}, nil
}
