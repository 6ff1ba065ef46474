// SPDX-License-Identifier: Apache-2.0

package ca

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"encoding/pem"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/warren-mesh/warren/mesh"
)

var start = time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)

// opened is an authority in a new directory, with a clock the test moves.
type opened struct {
	*Authority
	dir string
	now time.Time
}

func open(t *testing.T) *opened {
	t.Helper()
	o := &opened{dir: filepath.Join(t.TempDir(), "ca"), now: start}
	o.reopen(t)
	return o
}

func (o *opened) reopen(t *testing.T) {
	t.Helper()
	a, err := Open(Config{Dir: o.dir, Now: func() time.Time { return o.now }})
	if err != nil {
		t.Fatal(err)
	}
	o.Authority = a
}

func newTestKey(t testing.TB) *ecdsa.PrivateKey {
	t.Helper()
	k, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return k
}

func web() mesh.Identity {
	return mesh.Identity{TrustDomain: "cluster.local", Namespace: "shop", ServiceAccount: "web"}
}

// verify checks a chain the way a peer does that holds only bundle.
func verify(t *testing.T, chain []string, bundle []byte, now time.Time) error {
	t.Helper()
	roots, inter := x509.NewCertPool(), x509.NewCertPool()
	if !roots.AppendCertsFromPEM(bundle) || !inter.AppendCertsFromPEM([]byte(chain[1])) {
		t.Fatal("no certificates")
	}
	block, _ := pem.Decode([]byte(chain[0]))
	leaf, err := x509.ParseCertificate(block.Bytes)
	if err != nil {
		t.Fatal(err)
	}
	_, err = leaf.Verify(x509.VerifyOptions{Roots: roots, Intermediates: inter, CurrentTime: now, KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth}})
	return err
}

func TestIssuedCertificate(t *testing.T) {
	a := open(t)
	got, err := a.Issue(web(), newTestKey(t).Public(), time.Hour)
	if err != nil {
		t.Fatal(err)
	}
	if len(got.Chain) != 3 || got.Chain[2] != string(a.Trust().Roots) {
		t.Fatalf("chain of %d, want leaf, intermediate, bundle", len(got.Chain))
	}
	if err := verify(t, got.Chain, a.Trust().Roots, start); err != nil {
		t.Error(err)
	}
	c := got.Leaf
	if len(c.URIs) != 1 || c.URIs[0].String() != web().String() || len(c.DNSNames)+len(c.IPAddresses)+len(c.EmailAddresses) > 0 {
		t.Errorf("names %v %v", c.URIs, c.DNSNames)
	}
	for _, e := range c.Extensions {
		if e.Id.Equal(oidSubjectAltName) && !e.Critical {
			t.Error("SAN is not critical though the subject is empty")
		}
	}
	if c.KeyUsage != x509.KeyUsageDigitalSignature || len(c.ExtKeyUsage) != 2 || c.IsCA || len(c.Subject.Names) > 0 {
		t.Errorf("key usage %v %v, CA %v, subject %v", c.KeyUsage, c.ExtKeyUsage, c.IsCA, c.Subject)
	}
	if !c.NotBefore.Equal(start.Add(-time.Minute)) || !c.NotAfter.Equal(start.Add(time.Hour)) {
		t.Errorf("valid %v to %v", c.NotBefore, c.NotAfter)
	}
	again, err := a.Issue(web(), newTestKey(t).Public(), time.Hour)
	if err != nil || again.Leaf.SerialNumber.Cmp(c.SerialNumber) == 0 || c.SerialNumber.BitLen() < 100 {
		t.Errorf("serials %v, %v (%v)", c.SerialNumber, again.Leaf.SerialNumber, err)
	}
}

func TestLifetimes(t *testing.T) {
	a := open(t)
	for name, tt := range map[string]struct {
		seconds int64
		want    time.Duration
	}{
		"default": {0, 24 * time.Hour}, "negative": {-5, 24 * time.Hour}, "an hour": {3600, time.Hour},
		"too long": {1 << 40, 24 * time.Hour}, "overflowing": {1<<63 - 1, 24 * time.Hour}, "too short": {1, time.Minute},
	} {
		got, err := a.Issue(web(), newTestKey(t).Public(), ttl(tt.seconds))
		if err != nil || !got.Leaf.NotAfter.Equal(start.Add(tt.want)) {
			t.Errorf("%s: until %v (%v), want %v", name, got.Leaf.NotAfter, err, start.Add(tt.want))
		}
	}
}

func TestIdentitiesThatAreNotIssued(t *testing.T) {
	a := open(t)
	for name, id := range map[string]mesh.Identity{
		"none":                 {},
		"no service account":   {TrustDomain: "cluster.local", Namespace: "shop"},
		"another trust domain": {TrustDomain: "elsewhere", Namespace: "shop", ServiceAccount: "web"},
		"a slash":              {TrustDomain: "cluster.local", Namespace: "shop/sa/web", ServiceAccount: "x"},
		"an escape":            {TrustDomain: "cluster.local", Namespace: "sh%6fp", ServiceAccount: "web"},
		"a query":              {TrustDomain: "cluster.local", Namespace: "shop", ServiceAccount: "web?x"},
		"dots":                 {TrustDomain: "cluster.local", Namespace: "..", ServiceAccount: "web"},
		"a line break":         {TrustDomain: "cluster.local", Namespace: "shop", ServiceAccount: "web\n"},
	} {
		if _, err := a.Issue(id, newTestKey(t).Public(), 0); err == nil {
			t.Errorf("%s: issued", name)
		}
	}
}

func TestReopenedAuthorityIsTheSame(t *testing.T) {
	a := open(t)
	before, err := a.Issue(web(), newTestKey(t).Public(), 0)
	if err != nil {
		t.Fatal(err)
	}
	bundle := string(a.Trust().Roots)
	a.reopen(t)
	if string(a.Trust().Roots) != bundle {
		t.Error("another bundle")
	}
	after, err := a.Issue(web(), newTestKey(t).Public(), 0)
	if err != nil || after.Chain[1] != before.Chain[1] {
		t.Errorf("another intermediate (%v)", err)
	}
	for file, mode := range map[string]os.FileMode{RootFile: 0o600, IssuingFile: 0o600, BundleFile: 0o644} {
		st, err := os.Stat(filepath.Join(a.dir, file))
		if err != nil || st.Mode().Perm() != mode {
			t.Errorf("%s: %v %v, want %v", file, st.Mode(), err, mode)
		}
	}
	entries, err := os.ReadDir(a.dir)
	if err != nil || len(entries) != 4 {
		t.Errorf("left over: %v %v", entries, err)
	}
}

func TestIntermediateRotates(t *testing.T) {
	a := open(t)
	old, err := a.Issue(web(), newTestKey(t).Public(), 0)
	if err != nil {
		t.Fatal(err)
	}
	a.now = start.Add(issuingTTL/2 - time.Hour)
	if err := a.Rotate(); err != nil {
		t.Fatal(err)
	}
	same, err := a.Issue(web(), newTestKey(t).Public(), 0)
	if err != nil || same.Chain[1] != old.Chain[1] {
		t.Fatalf("rotated too early (%v)", err)
	}
	other := &opened{dir: a.dir, now: start.Add(issuingTTL/2 + time.Hour)}
	other.reopen(t) // a second process rotates,
	a.now = other.now
	if err := a.Rotate(); err != nil { // and the first takes that up
		t.Fatal(err)
	}
	next, err := a.Issue(web(), newTestKey(t).Public(), 0)
	if err != nil || next.Chain[1] == old.Chain[1] {
		t.Fatalf("not rotated (%v)", err)
	}
	theirs, err := other.Issue(web(), newTestKey(t).Public(), 0)
	if err != nil || theirs.Chain[1] != next.Chain[1] {
		t.Errorf("two processes, two intermediates (%v)", err)
	}
	if err := verify(t, same.Chain, a.Trust().Roots, start.Add(issuingTTL/2)); err != nil {
		t.Errorf("a certificate of the old intermediate: %v", err)
	}
	if err := verify(t, next.Chain, a.Trust().Roots, a.now); err != nil {
		t.Error(err)
	}
}

func TestDamagedDirectoryIsRefused(t *testing.T) {
	edit := func(file, text string) func(*testing.T, string) {
		return func(t *testing.T, dir string) {
			if err := os.WriteFile(filepath.Join(dir, file), []byte(text), 0o600); err != nil {
				t.Fatal(err)
			}
		}
	}
	replaced := func(file string) func(*testing.T, string) {
		return func(t *testing.T, dir string) {
			other := open(t)
			data, err := os.ReadFile(filepath.Join(other.dir, file))
			if err != nil {
				t.Fatal(err)
			}
			edit(file, string(data))(t, dir)
		}
	}
	tests := []struct {
		name   string
		damage func(t *testing.T, dir string)
		want   []string
	}{
		{"root is gone", func(t *testing.T, dir string) { _ = os.Remove(filepath.Join(dir, RootFile)) }, []string{RootFile, "missing", "backup"}},
		{"root is empty", edit(RootFile, ""), []string{RootFile, "no key", "backup"}},
		{"root is cut short", edit(RootFile, "-----BEGIN PRIVATE KEY-----\nMIG"), []string{RootFile, "no key"}},
		{"root is another's", replaced(RootFile), []string{IssuingFile, "not signed by", "remove it"}},
		{"intermediate is another's", replaced(IssuingFile), []string{IssuingFile, "not signed by", "remove it"}},
		{"intermediate is garbage", edit(IssuingFile, "x"), []string{IssuingFile, "remove it"}},
		{"bundle holds a key", func(t *testing.T, dir string) {
			data, err := os.ReadFile(filepath.Join(dir, RootFile))
			if err != nil {
				t.Fatal(err)
			}
			edit(BundleFile, string(data))(t, dir)
		}, []string{BundleFile, "is no certificate"}},
		{"bundle is empty", edit(BundleFile, ""), []string{BundleFile, "remove the file"}},
		{"key is readable by others", func(t *testing.T, dir string) { _ = os.Chmod(filepath.Join(dir, RootFile), 0o640) }, []string{RootFile, "0640", "chmod 0600"}},
		{"intermediate's key is readable by others", func(t *testing.T, dir string) { _ = os.Chmod(filepath.Join(dir, IssuingFile), 0o604) }, []string{IssuingFile, "chmod 0600"}},
		{"directory is writable by others", func(t *testing.T, dir string) { _ = os.Chmod(dir, 0o777) }, []string{"others may write", "chmod 0700"}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			a := open(t)
			tt.damage(t, a.dir)
			_, err := Open(Config{Dir: a.dir, Now: func() time.Time { return start }})
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
	t.Run("root has expired", func(t *testing.T) {
		a := open(t)
		_, err := Open(Config{Dir: a.dir, Now: func() time.Time { return start.Add(rootTTL + time.Hour) }})
		if err == nil || !strings.Contains(err.Error(), "expired") {
			t.Errorf("got %v", err)
		}
	})
}

func TestLostFilesThatCanBeMadeAgainAre(t *testing.T) {
	a := open(t)
	bundle := string(a.Trust().Roots)
	for _, f := range []string{IssuingFile, BundleFile} {
		if err := os.Remove(filepath.Join(a.dir, f)); err != nil {
			t.Fatal(err)
		}
	}
	a.reopen(t)
	got, err := a.Issue(web(), newTestKey(t).Public(), 0)
	if err != nil || string(a.Trust().Roots) != bundle {
		t.Fatalf("%v", err)
	}
	if err := verify(t, got.Chain, []byte(bundle), start); err != nil {
		t.Error(err)
	}
}
