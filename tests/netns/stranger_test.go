// SPDX-License-Identifier: Apache-2.0

package netns

import (
	"context"
	"crypto/tls"
	"fmt"
	"io"
	"net"
	"net/netip"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/warren-mesh/warren/tests/intruder"
	"github.com/warren-mesh/warren/ztunnel/hbone"
	"github.com/warren-mesh/warren/ztunnel/record"
)

// shake begins TLS with a pod's HBONE port.
func shake(t *testing.T, from *Pod, to netip.Addr, cert *tls.Certificate) (*tls.Conn, error) {
	t.Helper()
	return intruder.Shake(t, dialHBONE(t, from, to), cert)
}

// tunnelTo opens a tunnel to a pod; the test fails without one.
func tunnelTo(t *testing.T, from *Pod, to netip.Addr, cert *tls.Certificate) *hbone.ClientConn {
	t.Helper()
	return intruder.Tunnel(t, dialHBONE(t, from, to), cert)
}

func dialHBONE(t *testing.T, from *Pod, to netip.Addr) *net.TCPConn {
	t.Helper()
	c := dial(t, from, "tcp", netip.AddrPortFrom(to, hbonePort).String(), 20*time.Second)
	_ = c.SetLinger(0) // closing leaves nothing that waits for the other end, whose pod may be gone before
	return c
}

// impostor serves a pod's HBONE port in ztunnel's place, with the certificate it is given.
type impostor struct {
	cert    atomic.Pointer[tls.Certificate]
	streams atomic.Int32 // accepted

	mu     sync.Mutex
	shakes []error // how handshakes ended
}

func newImpostor(t *testing.T, p *Pod) *impostor {
	t.Helper()
	i := &impostor{}
	serve(t, p, fmt.Sprint(":", hbonePort), func(c *net.TCPConn) { i.serve(t.Context(), c) })
	return i
}

func (i *impostor) serve(ctx context.Context, c net.Conn) {
	tc := tls.Server(c, &tls.Config{
		MinVersion: tls.VersionTLS13, NextProtos: []string{"h2"}, ClientAuth: tls.RequireAnyClientCert, SessionTicketsDisabled: true,
		GetCertificate: func(*tls.ClientHelloInfo) (*tls.Certificate, error) { return i.cert.Load(), nil },
	})
	err := tc.HandshakeContext(ctx)
	i.mu.Lock()
	i.shakes = append(i.shakes, err)
	i.mu.Unlock()
	if err != nil {
		return
	}
	_ = hbone.Serve(ctx, record.OverTLS(tc), hbone.Config{}, func(ss *hbone.ServerStream) {
		i.streams.Add(1)
		s, err := ss.Accept(hbone.Header{})
		if err != nil {
			return
		}
		fmt.Fprintln(s, "peer impostor")
		_, _ = io.Copy(s, s)
		_ = s.CloseWrite()
	})
}

// lastShake is how the newest handshake ended, and how many there were.
func (i *impostor) lastShake() (int, error) {
	i.mu.Lock()
	defer i.mu.Unlock()
	if len(i.shakes) == 0 {
		return 0, nil
	}
	return len(i.shakes), i.shakes[len(i.shakes)-1]
}
