// SPDX-License-Identifier: Apache-2.0

package identity

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"

	"github.com/warren-mesh/warren/mesh"
	"github.com/warren-mesh/warren/mesh/reason"
)

func info(s *Store, id mesh.Identity) Info {
	for _, i := range s.Certificates() {
		if i.Identity == id {
			return i
		}
	}
	return Info{}
}

func TestRenewalAtHalfLifeUnderALiveConnection(t *testing.T) {
	ck := newClock()
	a := newAuthority(t, ck.now)
	s := newStore(t, a, fixedRoots(a.pem()), ck.now)
	client := clientConfig(t, s, sa("client"), sa("server").String())
	server := serverConfig(t, s, sa("server"))
	live, peer := pipe(t, client, server)
	first := info(s, sa("client"))

	half := first.NotAfter.Sub(ck.now()) / 2
	if d := first.Renew.Sub(ck.now()); d < half*9/10 || d > half*11/10 {
		t.Fatalf("renewal in %v, want about %v", d, half)
	}
	oldKey := s.entries[sa("client")].current.Load().key
	ck.advance(half*9/10 - time.Second)
	s.poke()
	if n := len(a.called()); n != 2 {
		t.Fatalf("%d fetches before half-life, want the first two", n)
	}
	ck.advance(half / 5)
	s.poke()
	eventually(t, "a new certificate", func() bool { return info(s, sa("client")).Serial != first.Serial })
	echo(t, live, peer)

	// The configurations made before show the new certificate, and the old one's key goes a little later.
	r := handshake(t, "tcp4", client, server)
	if r.client != nil || r.server != nil || r.read != nil {
		t.Fatalf("handshake after renewal: %+v", r)
	}
	if got := serial(r.serverState.PeerCertificates[0]); got != info(s, sa("client")).Serial {
		t.Errorf("the client showed %s", got)
	}
	ck.advance(retireTime + time.Second)
	s.poke()
	eventually(t, "the old key erased", func() bool { return isErased(oldKey) })
	echo(t, live, peer)
}

func isErased(k *key) bool {
	k.mu.RLock()
	defer k.mu.RUnlock()
	return k.priv == nil
}

// pipe returns both ends of one TLS connection.
func pipe(t *testing.T, client, server *tls.Config) (c, s *tls.Conn) {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	raw, err := net.Dial("tcp", l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	accepted, err := l.Accept()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _, _ = raw.Close(), accepted.Close() })
	c, s = tls.Client(raw, client), tls.Server(accepted, server)
	errs := make(chan error, 1)
	go func() { errs <- s.Handshake() }()
	if err := errors.Join(c.Handshake(), <-errs); err != nil {
		t.Fatal(err)
	}
	return c, s
}

func echo(t *testing.T, a, b net.Conn) {
	t.Helper()
	for _, d := range []struct{ from, to net.Conn }{{a, b}, {b, a}} {
		if _, err := io.WriteString(d.from, "ping"); err != nil {
			t.Fatal(err)
		}
		buf := make([]byte, 4)
		if _, err := io.ReadFull(d.to, buf); err != nil {
			t.Fatal(err)
		}
	}
}

func TestForgetErases(t *testing.T) {
	a := newAuthority(t, time.Now)
	s := newStore(t, a, fixedRoots(a.pem()), time.Now)
	client, server := clientConfig(t, s, sa("client"), sa("server").String()), serverConfig(t, s, sa("server"))
	k := s.entries[sa("client")].current.Load().key
	//lint:ignore SA1019 the test looks at the words that must be cleared
	words := k.priv.D.Bits()
	s.Forget(sa("client"))
	for i, w := range words {
		if w != 0 {
			t.Errorf("word %d of the key survived", i)
		}
	}
	if _, err := k.Sign(rand.Reader, make([]byte, 32), nil); !errors.Is(err, errErased) {
		t.Errorf("signing with a forgotten key: %v", err)
	}
	if len(s.Certificates()) != 1 {
		t.Errorf("still listed: %v", s.Certificates())
	}
	if r := handshake(t, "tcp4", client, server); ReasonOf(r.client) != reason.NoCertificate {
		t.Errorf("handshake with a forgotten identity: %v", r.client)
	}
	if _, err := s.ClientConfig(context.Background(), sa("client"), []string{"spiffe://x"}); ReasonOf(err) != reason.NoCertificate {
		t.Errorf("configuration for a forgotten identity: %v", err)
	}
}

func TestForgetDuringAFetchKeepsNothing(t *testing.T) {
	a := newAuthority(t, time.Now)
	started, ended := make(chan struct{}), make(chan struct{})
	a.set(func(a *authority) {
		a.hook = func(ctx context.Context, _ mesh.Identity) error {
			close(started)
			<-ctx.Done() // Forget cancels it
			close(ended)
			return ctx.Err()
		}
	})
	s := newStore(t, a, fixedRoots(a.pem()), time.Now)
	s.Want(sa("x"))
	got := make(chan error, 1)
	go func() {
		_, err := s.ServerConfig(context.Background(), sa("x"))
		got <- err
	}()
	<-started
	eventually(t, "a waiter", func() bool { s.mu.Lock(); defer s.mu.Unlock(); return s.entries[sa("x")].waiters == 1 })
	s.Forget(sa("x"))
	<-ended
	if err := <-got; ReasonOf(err) != reason.NoCertificate {
		t.Errorf("the waiter got %v", err)
	}
}

func TestFailureKeepsTheValidCertificateUntilItExpires(t *testing.T) {
	ck := newClock()
	a := newAuthority(t, ck.now)
	s := newStore(t, a, fixedRoots(a.pem()), ck.now)
	client, server := clientConfig(t, s, sa("client"), sa("server").String()), serverConfig(t, s, sa("server"))
	first := info(s, sa("client"))
	a.set(func(a *authority) {
		a.hook = func(context.Context, mesh.Identity) error { return errors.New("control is away") }
	})
	ck.advance(20 * time.Hour)
	s.poke()
	eventually(t, "a failed renewal", func() bool { return info(s, sa("client")).Error != "" })
	if i := info(s, sa("client")); i.State != StateAvailable || i.Serial != first.Serial {
		t.Errorf("after the failure: %+v", i)
	}
	if r := handshake(t, "tcp4", client, server); r.client != nil || r.server != nil {
		t.Errorf("handshake with the old certificate: %+v", r)
	}
	ck.advance(5 * time.Hour)
	if i := info(s, sa("client")); i.State != StateUnavailable {
		t.Errorf("after expiry: %+v", i)
	}
	if r := handshake(t, "tcp4", client, server); r.client == nil {
		t.Error("handshake with an expired certificate succeeded")
	}
	a.set(func(a *authority) { a.hook = nil })
	if _, err := s.ClientConfig(context.Background(), sa("client"), []string{"spiffe://x"}); err != nil {
		t.Errorf("after control came back: %v", err)
	}
}

func TestAWaitingConnectionGoesFirstAndAtOnce(t *testing.T) {
	ck := newClock()
	a := newAuthority(t, ck.now)
	var fail atomic.Bool
	fail.Store(true)
	a.set(func(a *authority) {
		a.hook = func(context.Context, mesh.Identity) error {
			if fail.Load() {
				return errors.New("control is away")
			}
			return nil
		}
	})
	s := newStore(t, a, fixedRoots(a.pem()), ck.now)
	s.Want(sa("x"))
	for n := 1; n <= 6; n++ { // into a long backoff
		eventually(t, "an attempt", func() bool { return failures(s, sa("x")) == n })
		ck.advance(time.Minute)
		s.poke()
	}
	eventually(t, "one more attempt", func() bool { return failures(s, sa("x")) == 7 })
	before := len(a.called())

	ctx, cancel := context.WithTimeout(context.Background(), 200*time.Millisecond)
	_, err := s.ClientConfig(ctx, sa("x"), []string{"spiffe://x"})
	cancel()
	if ReasonOf(err) != reason.NoCertificate || !strings.Contains(err.Error(), "control is away") {
		t.Errorf("while control is away: %v", err)
	}
	if n := len(a.called()); n != before {
		t.Errorf("%d attempts within the shortest backoff", n-before)
	}
	fail.Store(false)
	ck.advance(backoffFirst)
	if _, err := s.ClientConfig(context.Background(), sa("x"), []string{"spiffe://x"}); err != nil {
		t.Errorf("half a second later: %v", err)
	}
}

func failures(s *Store, id mesh.Identity) int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.entries[id].failures
}

func TestPrioritiesAndParallelism(t *testing.T) {
	a := newAuthority(t, time.Now)
	release := make(chan struct{})
	var now, most atomic.Int32
	a.set(func(a *authority) {
		a.hook = func(context.Context, mesh.Identity) error {
			if n := now.Add(1); n > most.Load() {
				most.Store(n)
			}
			<-release
			now.Add(-1)
			return nil
		}
	})
	s := newStore(t, a, fixedRoots(a.pem()), time.Now)
	for i := range 30 {
		s.Want(sa(fmt.Sprintf("warm%d", i)))
	}
	eventually(t, "eight fetches", func() bool { return now.Load() == parallel })
	s.Want(sa("urgent"))
	got := make(chan error, 1)
	go func() {
		_, err := s.ServerConfig(context.Background(), sa("urgent"))
		got <- err
	}()
	eventually(t, "a waiter", func() bool { s.mu.Lock(); defer s.mu.Unlock(); return s.entries[sa("urgent")].waiters == 1 })
	release <- struct{}{}
	eventually(t, "the ninth fetch", func() bool { return len(a.called()) == parallel+1 })
	if ninth := a.called()[parallel]; ninth != sa("urgent") {
		t.Errorf("after the first eight came %s", ninth)
	}
	close(release)
	if err := <-got; err != nil {
		t.Error(err)
	}
	eventually(t, "all fetched", func() bool { return len(a.called()) == 31 && now.Load() == 0 })
	if most.Load() > parallel {
		t.Errorf("%d fetches at once", most.Load())
	}
}

func TestAnswersThatMustNotBeUsed(t *testing.T) {
	other, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	stranger := newAuthority(t, time.Now)
	tests := []struct {
		name string
		set  func(*authority)
	}{
		{"another identity", func(a *authority) { a.bend = func(c *x509.Certificate) { c.URIs[0] = uri(t, sa("admin").String()) } }},
		{"a second identity", func(a *authority) {
			a.bend = func(c *x509.Certificate) { c.URIs = append(c.URIs, uri(t, sa("admin").String())) }
		}},
		{"another key", func(a *authority) { a.signFor = func(*ecdsa.PublicKey) any { return other.Public() } }},
		{"another root, which the answer brings along", func(a *authority) { a.key, a.cert = stranger.key, stranger.cert }},
		{"expired", func(a *authority) { a.bend = func(c *x509.Certificate) { c.NotAfter = time.Now().Add(-time.Second) } }},
		{"for clients only", func(a *authority) { a.bend = func(c *x509.Certificate) { c.ExtKeyUsage = c.ExtKeyUsage[:1] } }},
		{"nothing", func(a *authority) { a.mangle = func([]string) []string { return nil } }},
		{"leaf alone", func(a *authority) { a.mangle = func(c []string) []string { return c[:1] } }},
		{"no PEM", func(a *authority) { a.mangle = func(c []string) []string { return []string{"x", c[1]} } }},
		{"no certificate", func(a *authority) {
			a.mangle = func(c []string) []string {
				return []string{"-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n", c[1]}
			}
		}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			a := newAuthority(t, time.Now)
			roots := a.pem()
			a.set(tt.set)
			reg := prometheus.NewRegistry()
			s := New(Config{Fetcher: a, Roots: fixedRoots(roots), Registerer: reg})
			if err := s.cfg.Roots.Refresh(context.Background()); err != nil {
				t.Fatal(err)
			}
			_, k, err := s.request(context.Background(), &entry{id: sa("x")})
			if ReasonOf(err) != reason.NoCertificate || k == nil {
				t.Errorf("got %v", err)
			}
			s.metrics.failed(err)
			if n := testutil.ToFloat64(s.metrics.failures.WithLabelValues("Answer")); n != 1 {
				t.Errorf("counted %v", n)
			}
			if p, err := testutil.GatherAndLint(reg); err != nil || len(p) > 0 {
				t.Errorf("metrics: %v %v", p, err)
			}
		})
	}
}

func TestRootsChange(t *testing.T) {
	a, next := newAuthority(t, time.Now), newAuthority(t, time.Now)
	var bundle atomic.Pointer[[]byte]
	set := func(b []byte) { bundle.Store(&b) }
	set(nil)
	roots := NewRoots(func(context.Context) ([]byte, error) {
		if b := *bundle.Load(); b != nil {
			return b, nil
		}
		return nil, errors.New("no such file")
	}, nil, slog.New(slog.DiscardHandler))
	s := newStore(t, a, roots, time.Now)
	s.Want(sa("x"))
	ctx, cancel := context.WithTimeout(context.Background(), 50*time.Millisecond)
	_, err := s.ServerConfig(ctx, sa("x"))
	cancel()
	if ReasonOf(err) != reason.NoCertificate || !strings.Contains(err.Error(), "no root bundle") || len(a.called()) > 0 {
		t.Errorf("without roots: %v", err)
	}
	set(a.pem())
	if _, err := s.ServerConfig(context.Background(), sa("x")); err != nil {
		t.Fatal(err)
	}
	first := info(s, sa("x")).Serial

	set([]byte("-----BEGIN GARBAGE-----\n-----END GARBAGE-----\n"))
	if err := roots.Refresh(context.Background()); err == nil {
		t.Error("a damaged bundle was taken")
	}
	set(append(a.pem(), next.pem()...))
	if err := roots.Refresh(context.Background()); err != nil {
		t.Fatal(err)
	}
	if info(s, sa("x")).Serial != first {
		t.Error("renewed though the new bundle still verifies it")
	}
	a.set(func(a *authority) { a.key, a.cert = next.key, next.cert })
	set(next.pem())
	if err := roots.Refresh(context.Background()); err != nil {
		t.Fatal(err)
	}
	eventually(t, "a certificate under the new root", func() bool {
		i := info(s, sa("x"))
		return i.State == StateAvailable && i.Serial != first
	})
}

func TestDumpHoldsNoKey(t *testing.T) {
	a := newAuthority(t, time.Now)
	s := newStore(t, a, fixedRoots(a.pem()), time.Now)
	_ = serverConfig(t, s, sa("x"))
	d, err := s.entries[sa("x")].current.Load().key.priv.Bytes()
	if err != nil {
		t.Fatal(err)
	}
	out, err := json.Marshal(s.Certificates())
	if err != nil {
		t.Fatal(err)
	}
	if strings.Contains(string(out), fmt.Sprintf("%x", d)) || !strings.Contains(string(out), `"serialNumber"`) || !strings.Contains(string(out), "Available") {
		t.Errorf("dump %s", out)
	}
}

func TestRequestIsWhatTheProtocolAsks(t *testing.T) {
	k, err := newKey()
	if err != nil {
		t.Fatal(err)
	}
	csr, err := newCSR(sa("x"), k)
	if err != nil {
		t.Fatal(err)
	}
	req := parseRequest(t, csr)
	if len(req.Subject.Names) != 0 || len(req.URIs) != 1 || req.URIs[0].String() != sa("x").String() {
		t.Errorf("subject %v, URIs %v", req.Subject, req.URIs)
	}
	if len(req.Extensions) != 1 || !req.Extensions[0].Critical {
		t.Errorf("extensions %+v", req.Extensions)
	}
}

func TestBackoffGrowsToItsLimitAndIsDrawnByLot(t *testing.T) {
	for n, want := range map[int]time.Duration{1: backoffFirst, 2: time.Second, 5: 8 * time.Second, 10: backoffMax, 1000: backoffMax} {
		seen := map[time.Duration]bool{}
		for range 50 {
			d := backoff(n)
			if d < want/2 || d > want {
				t.Fatalf("after %d failures %v, want %v to %v", n, d, want/2, want)
			}
			seen[d] = true
		}
		if len(seen) < 2 {
			t.Errorf("after %d failures always the same pause", n)
		}
	}
}
