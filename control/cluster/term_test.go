// SPDX-License-Identifier: Apache-2.0

package cluster

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/base64"
	"encoding/pem"
	"errors"
	"io"
	"net"
	"net/http"
	"strings"
	"testing"
	"time"

	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"

	"github.com/warren-mesh/warren/control"
	"github.com/warren-mesh/warren/control/ca"
	"github.com/warren-mesh/warren/mesh"
	"github.com/warren-mesh/warren/tests/kubeapi"
)

func TestATermBeginsWithWhatWasReadInIt(t *testing.T) {
	s := kubeapi.Start(t)
	begun := time.Now()
	before, after := begun.Add(-time.Second), begun.Add(time.Second)
	publisher := func() *Bundle {
		return newBundle(t, s, func(cfg *BundleConfig) { cfg.Term = func() (time.Time, bool) { return begun, true } })
	}
	old, list := []byte("roots"), []byte("list")
	if err := newBundle(t, s, nil).PublishTrust(t.Context(), ca.Trust{Roots: []byte("roots and one more"), Revoked: list}); err != nil {
		t.Fatal(err)
	}
	if err := publisher().PublishTrust(t.Context(), ca.Trust{Roots: old, Read: before, ListsRead: before}); !errors.Is(err, ca.ErrStale) {
		t.Errorf("what was read before the term: %v", err)
	}
	if got := rootsIn(s, "warren-system"); got != "roots and one more" {
		t.Errorf("rolled back to %q", got)
	}
	for _, tt := range []struct {
		name  string
		trust ca.Trust
		want  string
	}{
		{"lists that can't be read in this term", ca.Trust{Roots: old, Revoked: []byte("an older list"), Read: after, ListsRead: before}, "list"},
		{"none, which was read before it", ca.Trust{Roots: old, Read: after, ListsRead: before}, "list"},
		{"none, which was read in it", ca.Trust{Roots: old, Read: after, ListsRead: after}, ""},
	} {
		if err := publisher().PublishTrust(t.Context(), tt.trust); err != nil {
			t.Fatal(err)
		}
		data, _, _ := unstructured.NestedStringMap(s.Get("v1/configmaps", "warren-system", BundleName), "data")
		if data[BundleKey] != "roots" || data[RevokedKey] != tt.want {
			t.Errorf("%s: published %q, want the list %q", tt.name, data, tt.want)
		}
	}
}

// A ConfigMap that was right in one term may be another leader's by the next.
func TestANewTermLooksAgain(t *testing.T) {
	s := kubeapi.Start(t)
	begun := time.Now()
	b := newBundle(t, s, func(cfg *BundleConfig) { cfg.Term = func() (time.Time, bool) { return begun, true } })
	publish := func() {
		t.Helper()
		publishEverywhere(t, b, ca.Trust{Roots: []byte("roots"), Read: begun, ListsRead: begun})
	}
	publish()
	s.Delete("v1/configmaps", "warren-system", BundleName)
	publish()
	if rootsIn(s, "warren-system") != "" {
		t.Fatal("it looks each time: this test tests nothing")
	}
	begun = begun.Add(time.Millisecond)
	publish()
	if rootsIn(s, "warren-system") == "" {
		t.Error("not looked at in the new term")
	}
}

// synced are objects that have all been read: none.
type synced struct{ store *mesh.Store }

func (o synced) Run(ctx context.Context) error { <-ctx.Done(); return nil }
func (o synced) Store() *mesh.Store            { return o.store }
func (o synced) Synced() <-chan struct{}       { c := make(chan struct{}); close(c); return c }

func listener(t *testing.T) net.Listener {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	return l
}

// runControl runs control over an authority until the test ends, and returns what its readiness page says.
func runControl(t *testing.T, a *ca.Authority, p control.Publisher) (page func() string) {
	t.Helper()
	ready := listener(t)
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() {
		done <- control.Run(ctx, control.Config{
			Authority: a, Prover: ca.NewTokenDir(t.TempDir(), discard), Objects: synced{mesh.NewStore()}, Publisher: p,
			CA: listener(t), Metrics: listener(t), Ready: ready, Log: discard,
		})
	}()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
	return func() string {
		resp, err := http.Get("http://" + ready.Addr().String() + "/healthz/ready")
		if err != nil {
			t.Fatal(err)
		}
		defer resp.Body.Close()
		b, err := io.ReadAll(resp.Body)
		if err != nil {
			t.Fatal(err)
		}
		return strings.TrimSpace(string(b))
	}
}

// further is another root, PEM.
func further(t *testing.T) []byte {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	c := &x509.Certificate{
		Subject: pkix.Name{CommonName: "next"}, NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
		IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign,
	}
	der, err := x509.CreateCertificate(rand.Reader, c, c, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})
}

// setFile changes one file of the authority, as an operator does.
func setFile(t *testing.T, s *kubeapi.Server, name string, data []byte) {
	t.Helper()
	o := (&unstructured.Unstructured{Object: s.Get("v1/secrets", "warren-system", SecretName)}).DeepCopy()
	if err := unstructured.SetNestedField(o.Object, base64.StdEncoding.EncodeToString(data), "data", name); err != nil {
		t.Fatal(err)
	}
	s.PutMap("v1/secrets", o.Object)
}

// The replica that follows a leader last looked at the Secret before that leader published what is in it now.
func TestANewLeaderRollsNothingBack(t *testing.T) {
	s := kubeapi.Start(t)
	first, err := open(t, s, always)
	if err != nil {
		t.Fatal(err)
	}
	second, err := open(t, s, never)
	if err != nil {
		t.Fatal(err)
	}
	setFile(t, s, ca.BundleFile, further(t))
	if err := first.Rotate(); err != nil {
		t.Fatal(err)
	}
	if err := newBundle(t, s, nil).PublishTrust(t.Context(), first.Trust()); err != nil {
		t.Fatal(err)
	}
	published := rootsIn(s, "warren-system")
	writes := s.Requests("put v1/configmaps")
	begun := time.Now()
	page := runControl(t, second, newBundle(t, s, func(cfg *BundleConfig) { cfg.Term = func() (time.Time, bool) { return begun, true } }))
	eventually(t, "the second published", func() bool { return page() == "ready" })
	if got := rootsIn(s, "warren-system"); got != published || s.Requests("put v1/configmaps") != writes {
		t.Errorf("the new leader wrote:\n%s\nthe one before had published:\n%s", got, published)
	}
	if string(second.Trust().Roots) != published {
		t.Error("the new leader goes by older files")
	}
}

// A leader that can't read the files leaves what is published, and goes on signing.
func TestANewLeaderThatCanNotReadSigns(t *testing.T) {
	s := kubeapi.Start(t)
	a, err := open(t, s, always)
	if err != nil {
		t.Fatal(err)
	}
	since, leads := make(chan time.Time, 1), false // this replica's publisher alone reads them
	var begun time.Time
	b := newBundle(t, s, func(cfg *BundleConfig) {
		cfg.Term = func() (time.Time, bool) {
			select {
			case begun = <-since:
				leads = true
			default:
			}
			return begun, leads
		}
	})
	page := runControl(t, a, b)
	eventually(t, "ready, as a follower", func() bool { return page() == "ready" })
	setFile(t, s, ca.BundleFile, []byte("garbage"))
	since <- time.Now()
	_ = a.Rotate() // wakes the publisher
	gets := s.Requests("get v1/secrets")
	eventually(t, "it tried to read them, several times", func() bool { return s.Requests("get v1/secrets") >= gets+2 })
	if got := page(); got != "ready" {
		t.Errorf("a leader that can't read the files: %s", got)
	}
	if rootsIn(s, "warren-system") != "" {
		t.Error("it published what it had read before its term")
	}
}
