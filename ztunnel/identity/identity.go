// SPDX-License-Identifier: Apache-2.0

// Package identity keeps the keys and certificates of the workloads on this node and makes the TLS
// configurations the mesh speaks with: TLS 1.3, HTTP/2, both sides authenticated by SPIFFE identity.
//
// It opens neither sockets nor files: roots, token and connections come through functions it is given.
package identity

import (
	"crypto/x509"
	"errors"
	"fmt"

	"github.com/spiffe/go-spiffe/v2/spiffeid"

	"github.com/warren-mesh/warren/mesh"
	"github.com/warren-mesh/warren/mesh/reason"
)

// Error is a failure with the word that goes into log and metrics: TLS_FAILURE, IDENTITY_MISMATCH or
// NO_CERTIFICATE.
type Error struct {
	Reason reason.Reason
	Err    error
}

func (e *Error) Error() string { return e.Err.Error() }
func (e *Error) Unwrap() error { return e.Err }

// ReasonOf returns the reason of an error met in a handshake, or by asking for a configuration; what carries
// none of its own is TLS_FAILURE.
func ReasonOf(err error) reason.Reason {
	var e *Error
	if errors.As(err, &e) {
		return e.Reason
	}
	return reason.TLSFailure
}

func failure(r reason.Reason, format string, args ...any) *Error {
	return &Error{Reason: r, Err: fmt.Errorf(format, args...)}
}

// parseURI reads a workload's SPIFFE URI, strictly in SPIFFE's characters.
func parseURI(uri string) (mesh.Identity, error) {
	if _, err := spiffeid.FromString(uri); err != nil {
		return mesh.Identity{}, fmt.Errorf("parse identity %.256q: %w", uri, err)
	}
	return mesh.ParseIdentity(uri)
}

// svid returns the identity a certificate carries. An X.509-SVID has exactly one URI (SPIFFE X509-SVID §2):
// with a second one, two verifiers could take the same peer for two workloads.
func svid(c *x509.Certificate) (mesh.Identity, error) {
	if len(c.URIs) != 1 {
		return mesh.Identity{}, fmt.Errorf("certificate has %d URI names (want one SPIFFE identity)", len(c.URIs))
	}
	return parseURI(c.URIs[0].String())
}
