// SPDX-License-Identifier: Apache-2.0

package identity

import (
	"context"
	"crypto/rand"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"io/fs"
	"log/slog"
	"math/big"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"

	"github.com/warren-mesh/warren/mesh"
	"github.com/warren-mesh/warren/mesh/reason"
)

// files are roots and revocation lists that a test changes; an error in place of a file's content is what reading it
// gives.
type files struct {
	mu             sync.Mutex
	roots, revoked any
}

func (f *files) set(roots, revoked any) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.roots, f.revoked = roots, revoked
}

func (f *files) reader(which func(*files) any) ReadFunc {
	return func(context.Context) ([]byte, error) {
		f.mu.Lock()
		defer f.mu.Unlock()
		switch v := which(f).(type) {
		case []byte:
			return v, nil
		case error:
			return nil, v
		}
		return nil, fs.ErrNotExist
	}
}

func (f *files) trust(now func() time.Time) *Roots {
	r := NewRoots(f.reader(func(f *files) any { return f.roots }), f.reader(func(f *files) any { return f.revoked }), slog.New(slog.DiscardHandler))
	r.now = now
	return r
}

func (a *authority) revoke(next time.Time, serials ...string) []byte {
	a.t.Helper()
	l := &x509.RevocationList{Number: big.NewInt(1), ThisUpdate: a.now().Add(-time.Hour), NextUpdate: next}
	for _, s := range serials {
		n, _ := new(big.Int).SetString(s, 16)
		l.RevokedCertificateEntries = append(l.RevokedCertificateEntries, x509.RevocationListEntry{SerialNumber: n, RevocationTime: a.now()})
	}
	der, err := x509.CreateRevocationList(rand.Reader, l, a.cert, a.key)
	if err != nil {
		a.t.Fatal(err)
	}
	return pem.EncodeToMemory(&pem.Block{Type: "X509 CRL", Bytes: der})
}

func refresh(t *testing.T, r *Roots, wantErr bool) {
	t.Helper()
	if err := r.Refresh(t.Context()); (err != nil) != wantErr {
		t.Errorf("refresh: %v", err)
	}
}

func TestRevokedOnBothSides(t *testing.T) {
	ck := newClock()
	a := newAuthority(t, ck.now)
	var f files
	f.set(a.pem(), nil)
	roots := f.trust(ck.now)
	s := newStore(t, a, roots, ck.now)
	client := clientConfig(t, s, sa("client"), sa("server").String())
	server := serverConfig(t, s, sa("server"))
	cs, ss := pipe(t, client, server)
	shownByServer, shownByClient := cs.ConnectionState(), ss.ConnectionState()
	still := func(want ...reason.Reason) {
		t.Helper()
		got := []reason.Reason{reasonOrNone(s.StillServer(shownByServer, sa("client"), []string{sa("server").String()})), reasonOrNone(s.StillClient(shownByClient, sa("server")))}
		if !slices.Equal(got, want) {
			t.Errorf("the live connection: %v, want %v", got, want)
		}
	}
	still(reason.None, reason.None)
	changed := s.TrustChanged()
	later := ck.now().Add(time.Hour)

	f.set(a.pem(), a.revoke(later, serial(shownByServer.PeerCertificates[0])))
	refresh(t, roots, false)
	select {
	case <-changed:
	default:
		t.Error("nobody was told")
	}
	still(reason.CertificateRevoked, reason.None)
	f.set(a.pem(), a.revoke(later, serial(shownByClient.PeerCertificates[0])))
	refresh(t, roots, false)
	still(reason.None, reason.CertificateRevoked)

	// Who was revoked gets another certificate at once: it is the old one's key that is not believed.
	eventually(t, "the client has another certificate", func() bool {
		i := info(s, sa("client"))
		return i.Serial != serial(shownByClient.PeerCertificates[0]) && i.State == StateAvailable
	})
	if r := handshake(t, "tcp4", client, server); r.client != nil || r.server != nil || r.read != nil {
		t.Errorf("with the new certificate: %+v", r)
	}
}

func reasonOrNone(err error) reason.Reason {
	if err == nil {
		return reason.None
	}
	return ReasonOf(err)
}

// Which lists are gone by as files come and go.
func TestListsComeAndGo(t *testing.T) {
	ck := newClock()
	a := newAuthority(t, ck.now)
	stranger := newAuthority(t, ck.now)
	var f files
	fresh := func(serials ...string) []byte { return a.revoke(ck.now().Add(time.Hour), serials...) }
	broken := errors.New("the broker does not answer")
	roots := f.trust(ck.now)
	steps := []struct {
		name    string
		revoked any
		advance time.Duration
		err     bool
		known   bool
		want    int
	}{
		{"no answer yet: nothing is trusted", broken, 0, true, false, 0},
		{"unreadable from the start: nothing is trusted", []byte("x"), 0, true, false, 0},
		{"none", nil, 0, false, true, 0},
		{"one", fresh("a", "b"), 0, false, true, 2},
		{"no answer", broken, 0, true, true, 2},
		{"unreadable", []byte("x"), 0, true, true, 2},
		{"out of date", a.revoke(ck.now().Add(-time.Minute), "c"), 0, true, true, 2},
		{"the good one again", fresh("a", "b", "c"), 0, false, true, 3},
		{"out of date by now", fresh("a", "b", "c"), 2 * time.Hour, true, true, 3},
		{"removed", nil, 0, false, true, 0},
		{"out of date and all there is", a.revoke(ck.now().Add(-time.Minute), "d"), 0, true, true, 1},
	}
	for _, step := range steps {
		f.set(a.pem(), step.revoked)
		ck.advance(step.advance)
		for range 2 { // the second look is at the same
			refresh(t, roots, step.err)
		}
		if roots.Known() != step.known {
			t.Fatalf("%s: known %v", step.name, roots.Known())
		}
		if step.known {
			if n := roots.current.Load().lists.Len(); n != step.want {
				t.Errorf("%s: %d revoked, want %d", step.name, n, step.want)
			}
		}
	}
	b := roots.current.Load()
	refresh(t, roots, true)
	if roots.current.Load() != b {
		t.Error("what did not change began anew: live connections are judged for nothing")
	}
	f.set(append(a.pem(), stranger.pem()...), fresh())
	refresh(t, roots, false)
	if b := roots.current.Load(); len(b.certs) != 2 || b.lists.Len() != 0 {
		t.Errorf("%d roots, %d revoked", len(b.certs), b.lists.Len())
	}
	f.set(a.pem(), fresh("a"))
	refresh(t, roots, false)
	f.set(nil, nil) // where they lie is gone as a whole: nobody took the list back
	refresh(t, roots, true)
	if b := roots.current.Load(); len(b.certs) != 1 || b.lists.Len() != 1 {
		t.Errorf("without its place: %d roots, %d revoked", len(b.certs), b.lists.Len())
	}
}

// The operator's way from one root to another, as a ztunnel sees it.
func TestMovingToAnotherRoot(t *testing.T) {
	ck := newClock()
	old, next := newAuthority(t, ck.now), newAuthority(t, ck.now)
	next.cert.Subject.CommonName = "next"
	both := func(first, second *authority) []byte { return append(first.pem(), second.pem()...) }
	var f files
	f.set(old.pem(), nil)
	roots := f.trust(ck.now)
	var mu sync.Mutex
	var moved []mesh.Identity
	signer := old
	reg := prometheus.NewRegistry()
	s := New(Config{Roots: roots, Now: ck.now, Registerer: reg,
		Fetcher: fetcher(func(ctx context.Context, id mesh.Identity, csr []byte) ([]string, error) {
			mu.Lock()
			a := signer
			mu.Unlock()
			return a.Fetch(ctx, id, csr)
		}),
		Moved: func(id mesh.Identity) { mu.Lock(); defer mu.Unlock(); moved = append(moved, id) },
	})
	run(t, s)
	client := clientConfig(t, s, sa("client"), sa("server").String())
	server := serverConfig(t, s, sa("server"))
	c1, s1 := pipe(t, client, server)
	changes := func(data []byte) {
		t.Helper()
		f.set(data, nil)
		refresh(t, roots, false)
		s.poke()
	}
	changes(both(old, next))
	if r := handshake(t, "tcp4", client, server); r.client != nil || r.server != nil {
		t.Fatalf("with two roots: %+v", r)
	}
	if n := len(old.called()); n != 2 {
		t.Errorf("%d fetches, though nothing moves yet", n)
	}
	mu.Lock()
	signer = next
	mu.Unlock()
	changes(both(next, old)) // control puts the root it signs under first
	eventually(t, "both are due soon", func() bool {
		return !slices.ContainsFunc(s.Certificates(), func(i Info) bool { return i.Renew.Sub(ck.now()) > moveTime })
	})
	ck.advance(moveTime + time.Second)
	s.poke()
	eventually(t, "both identities moved", func() bool { mu.Lock(); defer mu.Unlock(); return len(moved) == 2 })
	for _, i := range s.Certificates() {
		if i.Root != fingerprint(next.cert) {
			t.Errorf("%s is still under %s", i.Identity, i.Root)
		}
	}
	if n := testutil.CollectAndCount(trust{s}, "warren_certificates"); n != 2 {
		t.Errorf("%d roots in the metric, want both", n)
	}
	echo(t, c1, s1)
	expected := []string{sa("server").String()}
	if err := s.StillServer(c1.ConnectionState(), sa("client"), expected); err != nil {
		t.Errorf("while both roots are trusted: %v", err)
	}
	changes(next.pem())
	if got := reasonOrNone(s.StillServer(c1.ConnectionState(), sa("client"), expected)); got != reason.PolicyChanged {
		t.Errorf("proven by a root that is gone: %v", got)
	}
	if got := reasonOrNone(s.StillClient(s1.ConnectionState(), sa("server"))); got != reason.PolicyChanged {
		t.Errorf("proven by a root that is gone: %v", got)
	}
	if r := handshake(t, "tcp4", client, server); r.client != nil || r.server != nil || r.read != nil {
		t.Errorf("with the new root alone: %+v", r)
	}
	if problems, err := testutil.GatherAndLint(reg); err != nil || len(problems) > 0 {
		t.Errorf("%v %v", problems, err)
	}
}

type fetcher func(context.Context, mesh.Identity, []byte) ([]string, error)

func (f fetcher) Fetch(ctx context.Context, id mesh.Identity, csr []byte) ([]string, error) {
	return f(ctx, id, csr)
}

// A certificate that expired since its handshake ends no connection, whatever else changes.
func TestExpiryEndsNoLiveConnection(t *testing.T) {
	ck := newClock()
	a := newAuthority(t, ck.now)
	var f files
	f.set(a.pem(), nil)
	roots := f.trust(ck.now)
	s := newStore(t, a, roots, ck.now)
	c, p := pipe(t, clientConfig(t, s, sa("client"), sa("server").String()), serverConfig(t, s, sa("server")))
	ck.advance(a.ttl + time.Hour)
	f.set(append(a.pem(), newAuthority(t, ck.now).pem()...), nil)
	refresh(t, roots, false)
	if err := errors.Join(s.StillServer(c.ConnectionState(), sa("client"), []string{sa("server").String()}), s.StillClient(p.ConnectionState(), sa("server"))); err != nil {
		t.Error(err)
	}
}

func TestTrustDomainAliases(t *testing.T) {
	ck := newClock()
	a := newAuthority(t, ck.now)
	in := func(td string) mesh.Identity { id := sa("server"); id.TrustDomain = td; return id }
	from := func(td string) mesh.Identity { id := sa("client"); id.TrustDomain = td; return id }
	tests := []struct {
		name                   string
		aliases                []string
		client, server, expect string // trust domains; the verifying side's own is that of its certificate
		refusedBy              string
	}{
		{"one trust domain", nil, "new", "new", "new", ""},
		{"an old client", []string{"old"}, "old", "new", "new", ""},
		{"an old client, no alias", nil, "old", "new", "new", "server"},
		{"an old server that should be new", []string{"old"}, "new", "old", "new", ""},
		{"a new server that should be old", []string{"old"}, "new", "new", "old", ""},
		{"an old server, no alias", nil, "new", "old", "new", "client"},
		{"another alias", []string{"other"}, "new", "old", "new", "client"},
		{"two aliases", []string{"old", "older"}, "new", "older", "old", ""},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			// As on two nodes: each knows the mesh's own trust domain and the same aliases.
			s := New(Config{Fetcher: a, Roots: fixedRoots(a.pem()), Now: ck.now, Own: func() []string { return append(tt.aliases, "new") }})
			if tt.aliases == nil {
				s.cfg.Own = nil
			}
			run(t, s)
			r := handshake(t, "tcp4", clientConfig(t, s, from(tt.client), in(tt.expect).String()), serverConfig(t, s, in(tt.server)))
			got := ""
			switch {
			case r.client != nil && ReasonOf(r.client) == reason.IdentityMismatch:
				got = "client"
			case r.server != nil && ReasonOf(r.server) == reason.IdentityMismatch:
				got = "server"
			case r.client != nil || r.server != nil:
				t.Errorf("%+v", r)
			}
			if got != tt.refusedBy {
				t.Errorf("refused by %q, want %q: %v, %v", got, tt.refusedBy, r.client, r.server)
			}
		})
	}
	t.Run("another service account is not the same", func(t *testing.T) {
		own := Aliases(func() []string { return []string{"old"} })
		x := sa("server")
		x.TrustDomain = "old"
		if own.expected("cluster.local", x.String(), []string{sa("client").String()}) || own.expected("cluster.local", "https://old/ns/shop/sa/server", []string{sa("server").String()}) {
			t.Error("taken for another")
		}
	})
}

// Almost expired certificates go before those that nobody needs yet.
func TestUrgency(t *testing.T) {
	ck := newClock()
	a := newAuthority(t, ck.now)
	s := newStore(t, a, fixedRoots(a.pem()), ck.now)
	serverConfig(t, s, sa("x"))
	e := s.entries[sa("x")]
	if p := e.priority(ck.now()); p != background {
		t.Errorf("fresh: %v", p)
	}
	ck.advance(a.ttl * 95 / 100)
	if p := e.priority(ck.now()); p != warmup {
		t.Errorf("almost expired: %v", p)
	}
}

// Near the end of the authority's life certificates get shorter and shorter. They are not fetched in a loop.
func TestShortCertificatesAreNotFetchedInALoop(t *testing.T) {
	ck := newClock()
	a := newAuthority(t, ck.now)
	a.ttl = 2 * time.Second
	s := newStore(t, a, fixedRoots(a.pem()), ck.now)
	serverConfig(t, s, sa("x"))
	if i := info(s, sa("x")); i.Renew.Sub(ck.now()) < renewLeast {
		t.Errorf("renewed in %v", i.Renew.Sub(ck.now()))
	}
}
