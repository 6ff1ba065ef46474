// SPDX-License-Identifier: Apache-2.0

package identity

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net"

	"github.com/warren-mesh/warren/mesh/reason"
)

func (c *CAClient) newest() net.Conn {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.last
}

// abandon ends the connection a call got no answer on: used, or the one that was made during the call. One
// that another call replaced already is left alone.
func (c *CAClient) abandon(used net.Conn) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.last != nil && (used == nil || used == c.last) {
		_ = c.last.Close()
		c.last = nil
	}
}

// dial connects to the first of control's addresses that answers, beginning one further each time: a
// connection that then fails its handshake does not come back to the same one.
func (c *CAClient) dial(ctx context.Context, _ string) (net.Conn, error) {
	addrs := c.cfg.Addresses()
	if len(addrs) == 0 {
		return nil, errors.New("no endpoint of control known yet")
	}
	first := int(c.turn.Add(1) - 1)
	var errs []error
	for i := range addrs {
		addr := addrs[(first+i)%len(addrs)]
		one, cancel := context.WithTimeout(ctx, dialTimeout)
		conn, err := c.cfg.Dial(one, addr)
		cancel()
		if err == nil {
			c.mu.Lock()
			c.last = conn
			c.mu.Unlock()
			return conn, nil
		}
		errs = append(errs, fmt.Errorf("dial control at %s: %w", addr, err))
		if ctx.Err() != nil {
			break
		}
	}
	return nil, errors.Join(errs...)
}

// tls verifies control by the bundle and its identity; the certificate's DNS names do not matter, so an
// address taken over by someone else of the mesh is of no use to him.
func (c *CAClient) tls() *tls.Config {
	return &tls.Config{
		MinVersion:             tls.VersionTLS13,
		CurvePreferences:       []tls.CurveID{tls.X25519MLKEM768, tls.X25519, tls.CurveP256},
		SessionTicketsDisabled: true,
		InsecureSkipVerify:     true, // VerifyConnection does it
		Time:                   c.cfg.Now,
		VerifyConnection: func(cs tls.ConnectionState) error {
			if _, err := c.cfg.Roots.verify(cs.PeerCertificates, x509.ExtKeyUsageServerAuth, c.cfg.Now()); err != nil {
				return err
			}
			got, err := svid(cs.PeerCertificates[0])
			if err != nil {
				return failure(reason.IdentityMismatch, "verify control: %w", err)
			}
			if !c.cfg.Own.same(c.cfg.Server.TrustDomain, got, c.cfg.Server) {
				return failure(reason.IdentityMismatch, "verify control: it is %s, want %s", got, c.cfg.Server)
			}
			return nil
		},
	}
}
