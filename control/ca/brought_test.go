// SPDX-License-Identifier: Apache-2.0

package ca

import (
	"bytes"
	"crypto"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"math/big"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promhttp"
)

// theirs is a CA certificate of the operator's, with its key.
type theirs struct {
	key  crypto.Signer
	cert *x509.Certificate
}

// make signs a CA certificate as change has it; nil by makes a root.
func (by *theirs) make(t *testing.T, name string, change func(*x509.Certificate)) *theirs {
	t.Helper()
	key := crypto.Signer(newTestKey(t))
	c := &x509.Certificate{
		Subject: pkix.Name{CommonName: name}, NotBefore: start.Add(-time.Hour), NotAfter: start.Add(1000 * time.Hour),
		IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign | x509.KeyUsageCRLSign,
	}
	if change != nil {
		change(c)
	}
	signer := by
	if by == nil {
		signer = &theirs{key, c}
	}
	der, err := x509.CreateCertificate(rand.Reader, c, signer.cert, key.Public(), signer.key)
	if err != nil {
		t.Fatal(err)
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	return &theirs{key, cert}
}

func (p *theirs) pem() string { return string(certPEM(p.cert)) }

func (p *theirs) keyPEM(t *testing.T) string {
	t.Helper()
	der, err := x509.MarshalPKCS8PrivateKey(p.key)
	if err != nil {
		t.Fatal(err)
	}
	return string(pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der}))
}

func (p *theirs) revoke(t *testing.T, next time.Time, serials ...*big.Int) string {
	t.Helper()
	r := &x509.RevocationList{Number: big.NewInt(1), ThisUpdate: start.Add(-time.Hour), NextUpdate: next}
	for _, s := range serials {
		r.RevokedCertificateEntries = append(r.RevokedCertificateEntries, x509.RevocationListEntry{SerialNumber: s, RevocationTime: start})
	}
	der, err := x509.CreateRevocationList(rand.Reader, r, p.cert, p.key)
	if err != nil {
		t.Fatal(err)
	}
	return string(pem.EncodeToMemory(&pem.Block{Type: "X509 CRL", Bytes: der}))
}

// put writes the files of a directory as an operator does; an empty text removes one.
func put(t *testing.T, dir string, files map[string]string) {
	t.Helper()
	if err := os.MkdirAll(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	for name, text := range files {
		path := filepath.Join(dir, name)
		var err error
		if text == "" {
			err = os.Remove(path)
		} else {
			err = os.WriteFile(path, []byte(text), 0o600)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
}

func openWith(t *testing.T, files map[string]string) *opened {
	t.Helper()
	o := &opened{dir: filepath.Join(t.TempDir(), "ca"), now: start}
	put(t, o.dir, files)
	o.reopen(t)
	return o
}

// issueVerified issues a certificate and has a peer look at it that has no more than the bundle.
func (o *opened) issueVerified(t *testing.T) *Issued {
	t.Helper()
	got, err := o.Issue(web(), newTestKey(t).Public(), 0)
	if err != nil {
		t.Fatal(err)
	}
	between := x509.NewCertPool()
	for _, p := range got.Chain[1 : len(got.Chain)-1] {
		between.AppendCertsFromPEM([]byte(p))
	}
	roots := x509.NewCertPool()
	roots.AppendCertsFromPEM(o.Trust().Roots)
	if _, err := got.Leaf.Verify(x509.VerifyOptions{Roots: roots, Intermediates: between, CurrentTime: o.now,
		KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth}}); err != nil {
		t.Errorf("what was issued: %v", err)
	}
	return got
}

func TestTheOperatorsAuthority(t *testing.T) {
	root := (*theirs)(nil).make(t, "their root", nil)
	policy := root.make(t, "their policy CA", nil)
	signing := policy.make(t, "their mesh CA", func(c *x509.Certificate) { c.MaxPathLenZero = true; c.NotAfter = start.Add(3 * time.Hour) })
	rsaKey, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		t.Fatal(err)
	}
	rsaPEM := string(pem.EncodeToMemory(&pem.Block{Type: "RSA PRIVATE KEY", Bytes: x509.MarshalPKCS1PrivateKey(rsaKey)}))
	tmpl := &x509.Certificate{Subject: pkix.Name{CommonName: "RSA"}, NotBefore: start.Add(-time.Hour), NotAfter: start.Add(100 * time.Hour), IsCA: true, BasicConstraintsValid: true}
	der, err := x509.CreateCertificate(rand.Reader, tmpl, root.cert, rsaKey.Public(), root.key)
	if err != nil {
		t.Fatal(err)
	}
	rsaCert := string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}))
	tests := []struct {
		name  string
		files map[string]string
		chain int // certificates in the answer, without the bundle
		roots int
	}{
		{"Istio's cacerts", map[string]string{
			cacertsCert: signing.pem(), cacertsKey: signing.keyPEM(t), cacertsChain: signing.pem() + policy.pem() + root.pem(), cacertsRoots: root.pem(),
		}, 3, 1},
		{"cert-manager", map[string]string{tlsCert: signing.pem() + policy.pem(), tlsKey: signing.keyPEM(t), tlsRoots: root.pem()}, 3, 1},
		{"a root alone", map[string]string{tlsCert: root.pem(), tlsKey: root.keyPEM(t)}, 2, 1},
		{"an RSA key as openssl writes it", map[string]string{tlsCert: rsaCert, tlsKey: rsaPEM, tlsRoots: root.pem()}, 2, 1},
		{"another root to trust", map[string]string{tlsCert: root.pem(), tlsKey: root.keyPEM(t), BundleFile: (*theirs)(nil).make(t, "next", nil).pem()}, 2, 2},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			o := openWith(t, tt.files)
			got := o.issueVerified(t)
			if len(got.Chain) != tt.chain+1 || len(o.current.Load().roots) != tt.roots {
				t.Errorf("chain of %d, %d roots", len(got.Chain), len(o.current.Load().roots))
			}
			if got.Leaf.NotAfter.After(o.current.Load().until()) {
				t.Errorf("valid until %v, its signer until %v", got.Leaf.NotAfter, o.current.Load().until())
			}
			left, err := os.ReadDir(o.dir)
			if err != nil || len(left) != len(tt.files)+1 { // and the lock
				t.Errorf("files %v (%v): the operator's are left as they are", left, err)
			}
		})
	}
}

func TestTheOperatorsMistakes(t *testing.T) {
	root := (*theirs)(nil).make(t, "their root", nil)
	other := (*theirs)(nil).make(t, "other", nil)
	good := root.make(t, "mesh", nil)
	with := func(change func(*x509.Certificate)) map[string]string {
		p := root.make(t, "mesh", change)
		return map[string]string{tlsCert: p.pem(), tlsKey: p.keyPEM(t), tlsRoots: root.pem()}
	}
	tight := root.make(t, "tight", func(c *x509.Certificate) { c.MaxPathLenZero = true })
	below := tight.make(t, "below", nil)
	tests := []struct {
		name  string
		files map[string]string
		want  []string
	}{
		{"another's key", map[string]string{tlsCert: good.pem(), tlsKey: other.keyPEM(t), tlsRoots: root.pem()}, []string{tlsKey, "not the key", "mesh"}},
		{"no key", map[string]string{tlsCert: good.pem(), tlsRoots: root.pem()}, []string{tlsKey, "missing"}},
		{"no certificate", map[string]string{cacertsKey: good.keyPEM(t)}, []string{cacertsCert, "missing"}},
		{"a key in the certificates", map[string]string{tlsCert: good.pem() + good.keyPEM(t), tlsKey: good.keyPEM(t)}, []string{tlsCert, "PRIVATE KEY"}},
		{"an encrypted key", map[string]string{tlsCert: good.pem(), tlsKey: "-----BEGIN ENCRYPTED PRIVATE KEY-----\nAAAA\n-----END ENCRYPTED PRIVATE KEY-----\n"}, []string{tlsKey, "encrypted"}},
		{"no CA", with(func(c *x509.Certificate) { c.IsCA = false; c.KeyUsage = x509.KeyUsageDigitalSignature }), []string{tlsCert, "not a CA's"}},
		{"may not sign", with(func(c *x509.Certificate) { c.KeyUsage = x509.KeyUsageCRLSign }), []string{tlsCert, "keyCertSign"}},
		{"expired", with(func(c *x509.Certificate) { c.NotAfter = start.Add(-time.Minute) }), []string{tlsCert, "expired"}},
		{"not yet valid", with(func(c *x509.Certificate) { c.NotBefore = start.Add(time.Minute) }), []string{tlsCert, "valid only from"}},
		{"no root", map[string]string{tlsCert: good.pem(), tlsKey: good.keyPEM(t)}, []string{tlsRoots, "missing", "their root"}},
		{"another root", map[string]string{tlsCert: good.pem(), tlsKey: good.keyPEM(t), tlsRoots: other.pem()}, []string{"no way", tlsRoots}},
		{"path too long", map[string]string{tlsCert: below.pem() + tight.pem(), tlsKey: below.keyPEM(t), tlsRoots: root.pem()}, []string{tlsCert, "too many intermediates"}},
		{"name constraints", with(func(c *x509.Certificate) {
			c.PermittedURIDomains, c.PermittedDNSDomainsCritical = []string{"elsewhere.example"}, true
		}), []string{tlsCert, "spiffe://cluster.local/", "not permitted"}},
		{"for servers only", with(func(c *x509.Certificate) { c.ExtKeyUsage = []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth} }), []string{tlsCert, "key usage"}},
		{"two authorities", map[string]string{tlsCert: good.pem(), tlsKey: good.keyPEM(t), cacertsCert: good.pem()}, []string{"two authorities"}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			dir := filepath.Join(t.TempDir(), "ca")
			put(t, dir, tt.files)
			_, err := Open(Config{Dir: dir, Now: func() time.Time { return start }})
			if err == nil {
				t.Fatal("opened")
			}
			for _, w := range tt.want {
				if !strings.Contains(err.Error(), w) {
					t.Errorf("%q lacks %q", err, w)
				}
			}
		})
	}
	t.Run("DNS names are left out where the constraints forbid them", func(t *testing.T) {
		o := openWith(t, with(func(c *x509.Certificate) {
			c.PermittedDNSDomains, c.PermittedDNSDomainsCritical = []string{"example.com"}, true
		}))
		own := &serverCert{authority: o.Authority, now: func() time.Time { return start }}
		c, err := own.get(nil)
		if err != nil || len(c.Leaf.DNSNames) > 0 {
			t.Fatalf("names %v, %v", c.Leaf.DNSNames, err)
		}
	})
}

// The operator's way from one root to another, step by step; at each, what was issued before is verified.
func TestRootsChangeStepByStep(t *testing.T) {
	o := open(t)
	before := o.issueVerified(t)
	own := &serverCert{authority: o.Authority, now: func() time.Time { return o.now }}
	served, err := own.get(nil)
	if err != nil {
		t.Fatal(err)
	}
	next := (*theirs)(nil).make(t, "next", nil)
	oldRoot := string(o.Trust().Roots)
	step := func(files map[string]string) {
		t.Helper()
		put(t, o.dir, files)
		if err := o.Rotate(); err != nil {
			t.Fatal(err)
		}
	}
	both := func() {
		t.Helper()
		if n := bytes.Count(o.Trust().Roots, []byte("BEGIN CERTIFICATE")); n != 2 {
			t.Errorf("%d roots, want 2", n)
		}
		if err := verify(t, before.Chain, o.Trust().Roots, start); err != nil {
			t.Errorf("a certificate of the old root: %v", err)
		}
	}
	step(map[string]string{BundleFile: oldRoot + next.pem()})
	both()
	if o.issueVerified(t).Chain[1] != before.Chain[1] {
		t.Error("another signer")
	}
	step(map[string]string{tlsCert: next.pem(), tlsKey: next.keyPEM(t)})
	both()
	if got := o.issueVerified(t); got.Chain[1] != next.pem() {
		t.Error("not signed by the new one")
	}
	if !strings.HasPrefix(string(o.Trust().Roots), next.pem()) {
		t.Error("the root that signs is not the bundle's first: nodes do not move to it")
	}
	if now, err := own.get(nil); err != nil || now == served {
		t.Errorf("control shows a certificate of the old root on (%v)", err)
	}
	step(map[string]string{BundleFile: "", RootFile: "", IssuingFile: ""})
	if err := verify(t, before.Chain, o.Trust().Roots, start); err == nil {
		t.Error("the old root is trusted on")
	}
	o.issueVerified(t)
	o.reopen(t) // what a restart makes of it
	o.issueVerified(t)
}

// What can't be read leaves an authority that runs as it was, and says so.
func TestMistakesLeaveARunningAuthorityAlone(t *testing.T) {
	o := open(t)
	reg := prometheus.NewRegistry()
	newMetrics(reg, o.Authority)
	before, changed := string(o.Trust().Roots), o.Changed()
	for name, files := range map[string]map[string]string{
		"bundle":      {BundleFile: "garbage"},
		"signer":      {tlsCert: "garbage"},
		"root":        {RootFile: "garbage"},
		"issuing too": {IssuingFile: "garbage"},
	} {
		saved := map[string]string{}
		for f := range files {
			b, _ := os.ReadFile(filepath.Join(o.dir, f))
			saved[f] = string(b)
		}
		put(t, o.dir, files)
		if err := o.Rotate(); err == nil || o.Problem() == nil {
			t.Errorf("%s: no complaint", name)
		}
		o.issueVerified(t)
		if string(o.Trust().Roots) != before {
			t.Errorf("%s: another bundle", name)
		}
		if !strings.Contains(scrape(reg), "warren_ca_problem 1") {
			t.Errorf("%s: not in the metrics", name)
		}
		put(t, o.dir, saved)
		if err := o.Rotate(); err != nil || o.Problem() != nil {
			t.Errorf("%s put right: %v, %v", name, err, o.Problem())
		}
	}
	select {
	case <-changed:
	default:
		t.Error("nobody was told")
	}
}

func scrape(reg *prometheus.Registry) string {
	w := httptest.NewRecorder()
	promhttp.HandlerFor(reg, promhttp.HandlerOpts{}).ServeHTTP(w, httptest.NewRequest("GET", "/metrics", nil))
	return w.Body.String()
}

func TestRevocationLists(t *testing.T) {
	root := (*theirs)(nil).make(t, "their root", nil)
	other := (*theirs)(nil).make(t, "their root", nil)
	o := openWith(t, map[string]string{tlsCert: root.pem(), tlsKey: root.keyPEM(t)})
	later := start.Add(time.Hour)
	count := func(text string) (n int, known bool) {
		t.Helper()
		put(t, o.dir, map[string]string{CRLFile: text})
		if err := o.Rotate(); err != nil {
			t.Fatalf("a list ends what has nothing to do with it: %v", err)
		}
		return o.current.Load().crl.lists.Len(), !o.Trust().KeepRevoked
	}
	if got := o.Trust(); got.Revoked != nil || got.KeepRevoked {
		t.Errorf("without a list: %q, %v", got.Revoked, got.KeepRevoked)
	}
	if n, known := count(root.revoke(t, later, big.NewInt(7), big.NewInt(8))); n != 2 || !known || o.Problem() != nil {
		t.Errorf("%d revoked, %v", n, o.Problem())
	}
	forged := &theirs{other.key, func() *x509.Certificate { c := *root.cert; c.PublicKey = other.key.Public(); return &c }()}
	for name, text := range map[string]string{
		"garbage": "x", "a forged one": forged.revoke(t, later), "out of date": root.revoke(t, start.Add(-time.Minute)),
	} {
		if n, _ := count(text); n != 2 || o.Problem() == nil || !strings.Contains(o.Problem().Error(), CRLFile) {
			t.Errorf("%s: %d revoked, %v", name, n, o.Problem())
		}
	}
	if n, _ := count(other.revoke(t, later, big.NewInt(1))); n != 1 || o.Problem() == nil || !strings.Contains(o.Problem().Error(), "no certificate here") {
		t.Errorf("a stranger's: %d, %v", n, o.Problem())
	}
	put(t, o.dir, map[string]string{CRLFile: "x"})
	o.reopen(t)
	if !o.Trust().KeepRevoked {
		t.Error("after a restart, an unreadable list counts as none")
	}
	if n, known := count(""); n != 0 || !known || o.Problem() != nil {
		t.Errorf("removed: %d, %v, %v", n, known, o.Problem())
	}
}

func TestTrustSaysWhenItWasRead(t *testing.T) {
	root := (*theirs)(nil).make(t, "their root", nil)
	o := openWith(t, map[string]string{tlsCert: root.pem(), tlsKey: root.keyPEM(t)})
	for _, step := range []struct {
		name        string
		files       map[string]string
		read, lists bool
	}{
		{"nothing new", nil, true, true},
		{"a list that can't be used", map[string]string{CRLFile: "x"}, true, false},
		{"a good one", map[string]string{CRLFile: root.revoke(t, start.Add(1000*time.Hour))}, true, true},
		{"files that can't be used", map[string]string{BundleFile: "x"}, false, false},
	} {
		put(t, o.dir, step.files)
		before := o.now
		o.now = o.now.Add(time.Minute)
		_ = o.Rotate()
		got := o.Trust()
		if got.Read.After(before) != step.read || got.ListsRead.After(before) != step.lists {
			t.Errorf("%s: read at %v, its lists at %v; it is %v", step.name, got.Read, got.ListsRead, o.now)
		}
	}
}

// gate is storage whose files a test holds back.
type gate struct {
	Storage
	opened, pass chan struct{}
}

func (g gate) Open() (Files, error) {
	g.opened <- struct{}{}
	<-g.pass
	return g.Storage.Open()
}

// Of two looks at once the one that saw newer files has the last word: they take turns from before the files are opened.
func TestLooksTakeTurns(t *testing.T) {
	a := open(t)
	g := gate{a.cfg.Storage, make(chan struct{}), make(chan struct{})}
	a.cfg.Storage = g
	ended := make(chan error)
	go func() { ended <- a.Rotate() }()
	<-g.opened
	if a.looking.TryLock() {
		t.Error("another look may begin, and end before this one")
		a.looking.Unlock()
	}
	g.pass <- struct{}{}
	if err := <-ended; err != nil {
		t.Error(err)
	}
}

func TestExpiryIsAProblemInTime(t *testing.T) {
	root := (*theirs)(nil).make(t, "their root", nil)
	o := openWith(t, map[string]string{tlsCert: root.pem(), tlsKey: root.keyPEM(t)})
	if o.Problem() != nil {
		t.Fatal(o.Problem())
	}
	o.now = root.cert.NotAfter.Add(-10 * time.Hour)
	if err := o.Rotate(); err != nil || o.Problem() == nil || !strings.Contains(o.Problem().Error(), "expires at") {
		t.Errorf("%v, %v", err, o.Problem())
	}
	got, err := o.Issue(web(), newTestKey(t).Public(), 0)
	if err != nil || !got.Leaf.NotAfter.Equal(root.cert.NotAfter) {
		t.Errorf("a leaf outlives its signer: %v", err)
	}
	o.now = root.cert.NotAfter.Add(time.Second)
	if _, err := o.Issue(web(), newTestKey(t).Public(), 0); err == nil || !strings.Contains(err.Error(), "expired") {
		t.Errorf("issued by an expired authority: %v", err)
	}
}
