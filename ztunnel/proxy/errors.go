// SPDX-License-Identifier: Apache-2.0

package proxy

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"

	"github.com/warren-mesh/warren/mesh/reason"
	"github.com/warren-mesh/warren/ztunnel/hbone"
	"github.com/warren-mesh/warren/ztunnel/identity"
	"github.com/warren-mesh/warren/ztunnel/inpod"
)

// endError ends a connection with a reason.
type endError struct {
	reason reason.Reason
	err    error // nil: the reason's own text says it
}

func (e *endError) Error() string {
	if e.err == nil {
		return e.reason.Text()
	}
	return e.err.Error()
}

func (e *endError) Unwrap() error { return e.err }

func fail(r reason.Reason, format string, args ...any) error {
	return &endError{reason: r, err: fmt.Errorf(format, args...)}
}

// reasonOf finds the reason an error carries, else what it is by its kind.
func reasonOf(err error) reason.Reason {
	var e *endError
	var id *identity.Error
	var status *hbone.StatusError
	var alert *net.OpError
	switch {
	case err == nil:
		return reason.None
	case errors.As(err, &e):
		return e.reason
	case errors.As(err, &id):
		return id.Reason
	case errors.As(err, &status):
		return reason.PeerRefused
	case errors.As(err, &alert) && alert.Op == "remote error": // how crypto/tls reports a received alert
		return reason.TLSFailure
	case errors.Is(err, hbone.ErrConnectionLost):
		return reason.TunnelLost
	case errors.Is(err, inpod.ErrNoSocket):
		return reason.NoSocket
	}
	return reason.StreamReset
}

// identityReason is the word for a failed handshake or certificate.
func identityReason(err error) reason.Reason { return identity.ReasonOf(err) }

// dialError says why a TCP connect failed. A silent port 15008 looks like a NetworkPolicy that does not know it.
func dialError(err error, tunnel bool) error {
	switch {
	case errors.Is(err, inpod.ErrNoSocket):
		return &endError{reason: reason.NoSocket, err: err}
	case tunnel && (errors.Is(err, context.DeadlineExceeded) || isTimeout(err)):
		return fail(reason.NetworkPolicy, "%w (maybe a NetworkPolicy is blocking HBONE port 15008)", err)
	}
	return &endError{reason: reason.ConnectFailure, err: err}
}

func isTimeout(err error) bool {
	var t interface{ Timeout() bool }
	return errors.As(err, &t) && t.Timeout()
}

// broken makes sure that an end which was not orderly is an error that nobody takes for a good one.
func broken(err error) error {
	if errors.Is(err, io.EOF) {
		return fmt.Errorf("%w: %v", io.ErrUnexpectedEOF, err)
	}
	return err
}
