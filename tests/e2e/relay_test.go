// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"testing"
	"time"

	"github.com/warren-mesh/warren/ztunnel/hbone"
	"github.com/warren-mesh/warren/ztunnel/record"
)

// shake opens TLS to a pod's HBONE port from another pod as no ztunnel would: with any certificate, or none. It verifies
// nothing.
func shake(t *testing.T, from *Pod, to netip.Addr, cert *tls.Certificate) (*tls.Conn, error) {
	t.Helper()
	p, err := from.process()
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	c, err := dialIn(ctx, fmt.Sprintf("/proc/%d/ns/net", p.PID), "tcp", netip.AddrPortFrom(to, hbonePort).String())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	_ = c.SetDeadline(time.Now().Add(20 * time.Second))
	tc := tls.Client(c, &tls.Config{
		MinVersion: tls.VersionTLS13, NextProtos: []string{"h2"}, InsecureSkipVerify: true,
		GetClientCertificate: func(*tls.CertificateRequestInfo) (*tls.Certificate, error) {
			if cert == nil {
				return &tls.Certificate{}, nil
			}
			return cert, nil
		},
	})
	return tc, tc.HandshakeContext(ctx)
}

// tunnelTo opens a tunnel to a pod.
func tunnelTo(t *testing.T, from *Pod, to netip.Addr, cert *tls.Certificate) *hbone.ClientConn {
	t.Helper()
	tc, err := shake(t, from, to, cert)
	if err != nil {
		t.Fatalf("handshake with %s: %v", to, err)
	}
	_ = tc.SetDeadline(time.Time{}) // the tunnel lives on
	c, err := hbone.NewClient(t.Context(), record.OverTLS(tc), hbone.Config{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	return c
}

// connect asks a tunnel for an authority and returns the status: 200 when the stream opened, which is then closed.
func connect(t *testing.T, c *hbone.ClientConn, authority string) int {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	s, err := c.Open(ctx, hbone.Request{Authority: authority})
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

// TestNoOpenRelay holds a certificate that is good, and asks a pod's HBONE port for everything but that pod: each is
// refused with its status and its word.
func TestNoOpenRelay(t *testing.T) {
	m := Shared(t)
	nodes := m.Nodes()
	ns, out := m.Namespace(t, "relay", Enrolled()), m.Namespace(t, "strangers")
	caller := App{Name: "stranger", Node: nodes[0]}
	out.Create(caller)
	ns.Service(Service{Name: "near"})
	ns.Service(Service{Name: "far"})
	pods := ns.Deploy(App{Name: "near", Node: nodes[0]}, App{Name: "far", Node: nodes[1]})
	near, far := pods[0], pods[1]
	stranger := out.Wait(caller)[0]
	id := ns.Identity("near")
	mine := meshSigner(t, m)
	for _, bad := range []struct {
		name, reason string
		cert         *tls.Certificate
	}{
		{"no certificate", "TLS_FAILURE", nil},
		{"another CA", "TLS_FAILURE", foreignSigner(t, mine).certificate(t, id)},
		{"another trust domain", "IDENTITY_MISMATCH", mine.certificate(t, "spiffe://elsewhere.example/ns/relay/sa/near")},
	} {
		t.Run(bad.name, func(t *testing.T) {
			e := m.Witness(t, far.Node)
			c, err := shake(t, stranger, far.IPv4, bad.cert)
			if err == nil { // TLS 1.3: the client is done before the server has looked at its certificate
				_, err = c.Read(make([]byte, 1))
			}
			var alert *net.OpError
			if !errors.As(err, &alert) || alert.Op != "remote error" {
				t.Errorf("the client's first read: %v, want a TLS alert", err)
			}
			e.Ended("destination", bad.reason, fmt.Sprintf("src.addr=%s", c.LocalAddr()), "bytes_sent=0", "bytes_recv=0")
		})
	}
	tunnel := tunnelTo(t, stranger, far.IPv4, mine.certificate(t, id))
	own := func(port int) string { return fmt.Sprintf("%s:%d", far.IPv4, port) }
	domain := "." + ns.Name + ".svc.cluster.local"
	node, err := m.NodeShell(t.Context(), far.Node, "sh", "-c", "ip -4 -o addr show eth0 | sed 's/.*inet //; s,/.*,,'")
	if err != nil {
		t.Fatal(err)
	}
	for _, tt := range []struct {
		name, authority string
		status          int
		reason          string
	}{
		{"another pod", near.Addr("tcp4", EchoPort).String(), 400, "AUTHORITY_MISMATCH"},
		{"the pod's own other address", far.Addr("tcp6", EchoPort).String(), 400, "AUTHORITY_MISMATCH"},
		{"127.0.0.1", "127.0.0.1:7000", 400, "AUTHORITY_MISMATCH"},
		{"the v4-mapped form of the pod's own address", fmt.Sprintf("[::ffff:%s]:7000", far.IPv4), 400, "AUTHORITY_MISMATCH"},
		{"the node's IP", netip.AddrPortFrom(netip.MustParseAddr(node[:len(node)-1]), 10250).String(), 400, "AUTHORITY_MISMATCH"},
		{"the API server's Service", "10.230.0.1:443", 400, "AUTHORITY_MISMATCH"},
		{"link-local, where metadata services live", "169.254.169.254:80", 400, "AUTHORITY_MISMATCH"},
		{"a host name that is no service", "nowhere" + domain + ":80", 503, "DESTINATION_UNKNOWN"},
		{"a service that the pod is no endpoint of", "near" + domain + ":80", 400, "AUTHORITY_MISMATCH"},
		{"a port that its service does not have", "far" + domain + ":81", 503, "NO_SUCH_PORT"},
		{"port 15001", own(15001), 400, "RESERVED_PORT"},
		{"port 15006", own(15006), 400, "RESERVED_PORT"},
		{"port 15008", own(15008), 400, "RESERVED_PORT"},
		{"the first capture port", own(61000), 400, "RESERVED_PORT"},
		{"no port", far.IPv4.String(), 400, "BAD_REQUEST"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			e := m.Witness(t, far.Node)
			if got := connect(t, tunnel, tt.authority); got != tt.status {
				t.Errorf("status %d, want %d", got, tt.status)
			}
			e.Ended("destination", tt.reason, "src.identity="+id, "bytes_sent=0", "bytes_recv=0")
		})
	}
	for _, good := range []string{own(EchoPort), "far" + domain + ":80"} {
		t.Run("but the pod itself as "+good, func(t *testing.T) {
			if got := connect(t, tunnel, good); got != 200 {
				t.Errorf("status %d, want 200", got)
			}
		})
	}
}
