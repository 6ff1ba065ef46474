// SPDX-License-Identifier: Apache-2.0

package identity

import (
	"crypto/tls"
	"errors"
	"time"

	"github.com/warren-mesh/warren/mesh"
	"github.com/warren-mesh/warren/mesh/reason"
)

// TrustChanged returns a channel that is closed when roots or revocation lists change: live connections are then to
// be judged again, by StillServer and StillClient.
func (s *Store) TrustChanged() <-chan struct{} { return s.cfg.Roots.Watch() }

// StillServer reports whether the server of a live connection of source, made with ClientConfig, would be believed by
// what is trusted today. A certificate that merely expired since is no reason to end a connection: like everybody else
// the mesh asks for dates in the handshake (new streams are another matter, see hbone). Errors are CERTIFICATE_REVOKED
// or POLICY_CHANGED.
func (s *Store) StillServer(cs tls.ConnectionState, source mesh.Identity, expected []string) error {
	return changed(s.verifyServer(cs, source.TrustDomain, expected, s.within(cs)))
}

// StillClient is StillServer for the client of a live connection to own, made with ServerConfig.
func (s *Store) StillClient(cs tls.ConnectionState, own mesh.Identity) error {
	return changed(s.verifyClient(cs, own.TrustDomain, s.within(cs)))
}

// within is now, or the last instant at which all certificates shown were valid.
func (s *Store) within(cs tls.ConnectionState) time.Time {
	at := s.cfg.Now()
	for _, c := range cs.PeerCertificates {
		if c.NotAfter.Before(at) {
			at = c.NotAfter
		}
	}
	return at
}

func changed(err error) error {
	var e *Error
	if errors.As(err, &e) && e.Reason != reason.CertificateRevoked {
		return &Error{Reason: reason.PolicyChanged, Err: err}
	}
	return err
}
