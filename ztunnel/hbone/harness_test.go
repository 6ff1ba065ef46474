// SPDX-License-Identifier: Apache-2.0

package hbone

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"errors"
	"io"
	"math/big"
	"net"
	"net/url"
	"sync"
	"testing"
	"time"

	"github.com/warren-mesh/warren/ztunnel/record"
)

var certificate = sync.OnceValue(func() tls.Certificate { return issue(time.Now().Add(time.Hour)) })

// issue makes a certificate that signs itself.
func issue(notAfter time.Time) tls.Certificate {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		panic(err)
	}
	id, _ := url.Parse("spiffe://cluster.local/ns/default/sa/test")
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "test"}, URIs: []*url.URL{id},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: notAfter,
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth, x509.ExtKeyUsageServerAuth},
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, &key.PublicKey, key)
	if err != nil {
		panic(err)
	}
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key}
}

func tlsConfig(client bool) *tls.Config {
	c := &tls.Config{
		Certificates: []tls.Certificate{certificate()}, MinVersion: tls.VersionTLS13, NextProtos: []string{"h2"},
		CurvePreferences:            []tls.CurveID{tls.X25519MLKEM768, tls.X25519},
		DynamicRecordSizingDisabled: true, SessionTicketsDisabled: true,
		InsecureSkipVerify: client, // identities are another package's matter
	}
	if !client {
		c.ClientAuth = tls.RequireAnyClientCert
	}
	return c
}

func listen(tb testing.TB) net.Listener {
	tb.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() { _ = l.Close() })
	return l
}

// tcpPair returns the two ends of a TCP connection, the dialled one first.
func tcpPair(tb testing.TB) (a, b *net.TCPConn) {
	tb.Helper()
	l := listen(tb)
	dialled, err := net.Dial("tcp", l.Addr().String())
	if err != nil {
		tb.Fatal(err)
	}
	accepted, err := l.Accept()
	if err != nil {
		tb.Fatal(err)
	}
	_ = l.Close()
	tb.Cleanup(func() { _ = dialled.Close(); _ = accepted.Close() })
	return dialled.(*net.TCPConn), accepted.(*net.TCPConn)
}

// tlsPair returns the two ends of a TLS connection over TCP, the client's first.
func tlsPair(tb testing.TB) (client, server *tls.Conn) {
	tb.Helper()
	return tlsPairOf(tb, tlsConfig(true), tlsConfig(false))
}

func tlsPairOf(tb testing.TB, near, far *tls.Config) (client, server *tls.Conn) {
	tb.Helper()
	a, b := tcpPair(tb)
	client = tls.Client(record.Buffered(a), near)
	server = tls.Server(record.Buffered(b), far)
	failed := make(chan error, 1)
	go func() { failed <- server.Handshake() }()
	if err := errors.Join(client.Handshake(), <-failed); err != nil {
		tb.Fatal(err)
	}
	state := client.ConnectionState()
	if state.CurveID != tls.X25519MLKEM768 || state.NegotiatedProtocol != "h2" {
		tb.Fatalf("negotiated %v, %q", state.CurveID, state.NegotiatedProtocol)
	}
	return client, server
}

// tunnel is a client and a server of ours, joined.
type tunnel struct {
	client *ClientConn
	server *ServerConn
	served chan error
}

func newTunnel(tb testing.TB, config Config, handler func(*ServerStream)) *tunnel {
	tb.Helper()
	c, s := tlsPair(tb)
	return joinTunnel(tb, c, s, config, handler)
}

func joinTunnel(tb testing.TB, c, s *tls.Conn, config Config, handler func(*ServerStream)) *tunnel {
	tb.Helper()
	t := &tunnel{server: NewServer(record.OverTLS(s), config, handler), served: make(chan error, 1)}
	go func() { t.served <- t.server.Serve(context.Background()) }()
	var err error
	if t.client, err = NewClient(context.Background(), record.OverTLS(c), config); err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() { _ = t.client.Close(); _ = t.server.Close() })
	return t
}

func (t *tunnel) open(tb testing.TB) *Stream {
	tb.Helper()
	s, err := t.client.Open(deadline(tb), Request{Authority: "192.0.2.1:80"})
	if err != nil {
		tb.Fatal(err)
	}
	return s
}

// deadline is a context that outlives no test and ends before the test binary would.
func deadline(tb testing.TB) context.Context {
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
	tb.Cleanup(cancel)
	return ctx
}

// eventually waits for a condition.
func eventually(tb testing.TB, what string, ok func() bool) {
	tb.Helper()
	for end := time.Now().Add(10 * time.Second); !ok(); time.Sleep(time.Millisecond) {
		if time.Now().After(end) {
			tb.Fatalf("in vain waited for: %s", what)
		}
	}
}

// accepting runs f with each accepted stream.
func accepting(f func(*Stream)) func(*ServerStream) {
	return func(ss *ServerStream) {
		if s, err := ss.Accept(Header{}); err == nil {
			f(s)
		}
	}
}

// echo sends back what comes, then ends in order.
func echo(s *Stream) {
	if _, err := s.ReadFrom(readerOnly{s}); err == nil {
		_ = s.CloseWrite()
	}
}

// scaled is size, or a quarter of it where time is short.
func scaled(size int) int {
	if raceEnabled || testing.Short() {
		return size / 4
	}
	return size
}

type readerOnly struct{ io.Reader }
type writerOnly struct{ io.Writer }

var noTime time.Time
