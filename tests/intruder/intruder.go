// SPDX-License-Identifier: Apache-2.0

// Package intruder speaks HBONE as no ztunnel would: with any certificate or none, to any authority, and verifying nothing.
package intruder

import (
	"context"
	"crypto/tls"
	"errors"
	"net"
	"testing"
	"time"

	"github.com/warren-mesh/warren/ztunnel/hbone"
	"github.com/warren-mesh/warren/ztunnel/record"
)

// patience is how long anything may take.
const patience = 20 * time.Second

// Shake begins TLS on a connection to an HBONE port. The connection is closed at the test's end.
func Shake(t testing.TB, c net.Conn, cert *tls.Certificate) (*tls.Conn, error) {
	t.Helper()
	t.Cleanup(func() { c.Close() })
	_ = c.SetDeadline(time.Now().Add(patience))
	tc := tls.Client(c, &tls.Config{
		MinVersion: tls.VersionTLS13, NextProtos: []string{"h2"}, InsecureSkipVerify: true,
		GetClientCertificate: func(*tls.CertificateRequestInfo) (*tls.Certificate, error) {
			if cert == nil {
				return &tls.Certificate{}, nil
			}
			return cert, nil
		},
	})
	return tc, tc.HandshakeContext(t.Context())
}

// Tunnel is Shake and HTTP/2 on it; the test fails without them. It is closed at the test's end.
func Tunnel(t testing.TB, c net.Conn, cert *tls.Certificate) *hbone.ClientConn {
	t.Helper()
	tc, err := Shake(t, c, cert)
	if err != nil {
		t.Fatalf("handshake with %s: %v", c.RemoteAddr(), err)
	}
	_ = tc.SetDeadline(time.Time{}) // the tunnel lives on
	tunnel, err := hbone.NewClient(t.Context(), record.OverTLS(tc), hbone.Config{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { tunnel.Close() })
	return tunnel
}

// Connect asks a tunnel for an authority and returns the status: 200 when the stream opened, which is then closed.
func Connect(t testing.TB, tunnel *hbone.ClientConn, authority string) int {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	s, err := tunnel.Open(ctx, hbone.Request{Authority: authority})
	var refused *hbone.StatusError
	switch {
	case err == nil:
		s.Reset(hbone.CodeCancel)
		return 200
	case errors.As(err, &refused):
		return refused.Status
	}
	t.Fatalf("CONNECT %s: %v", authority, err)
	return 0
}
