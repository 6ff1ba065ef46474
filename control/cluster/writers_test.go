// SPDX-License-Identifier: Apache-2.0

package cluster

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"encoding/base64"
	"errors"
	"slices"
	"sync/atomic"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"

	"github.com/warren-mesh/warren/control/ca"
	"github.com/warren-mesh/warren/mesh"
	"github.com/warren-mesh/warren/mesh/kube/apiserver"
	"github.com/warren-mesh/warren/tests/kubeapi"
)

func always() bool { return true }
func never() bool  { return false }

func leads() (time.Time, bool)   { return time.Time{}, true }
func follows() (time.Time, bool) { return time.Time{}, false }

// newBundle is a publisher of the leading replica in warren-system, unless change makes it another.
func newBundle(t *testing.T, s *kubeapi.Server, change func(*BundleConfig)) *Bundle {
	t.Helper()
	cfg := BundleConfig{
		Client: s.Client(), Namespace: "warren-system", Term: leads,
		Snapshot: mesh.NewStore().Snapshot, Namespaces: func() []string { return nil }, Log: discard,
	}
	if change != nil {
		change(&cfg)
	}
	b, err := NewBundle(cfg)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// publishEverywhere publishes in control's namespace, and what is due in the others.
func publishEverywhere(t *testing.T, b *Bundle, trust ca.Trust) {
	t.Helper()
	if err := b.PublishTrust(t.Context(), trust); err != nil {
		t.Fatal(err)
	}
	b.copies.pass(t.Context())
}

func rootsIn(s *kubeapi.Server, ns string) string {
	v, _, _ := unstructured.NestedString(s.Get("v1/configmaps", ns, BundleName), "data", BundleKey)
	return v
}

func open(t *testing.T, s *kubeapi.Server, leading func() bool) (*ca.Authority, error) {
	t.Helper()
	secret, err := NewSecret(s.Client(), "warren-system", leading)
	if err != nil {
		t.Fatal(err)
	}
	return ca.Open(ca.Config{Storage: secret, Check: time.Hour, Log: discard}) // it looks when it is told to
}

func secretKey(t *testing.T, s *kubeapi.Server, key string) []byte {
	t.Helper()
	v, _, _ := unstructured.NestedString(s.Get("v1/secrets", "warren-system", SecretName), "data", key)
	b, err := base64.StdEncoding.DecodeString(v)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func TestReplicasShareOneAuthority(t *testing.T) {
	s := kubeapi.Start(t)
	if _, err := open(t, s, never); !errors.Is(err, ErrNotLeading) || !mayPass(err) {
		t.Fatalf("a replica that does not write made an authority: %v", err)
	}
	first, err := open(t, s, always)
	if err != nil {
		t.Fatal(err)
	}
	second, err := open(t, s, never)
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(first.Trust().Roots, second.Trust().Roots) {
		t.Error("two replicas, two roots")
	}
	for _, key := range []string{ca.RootFile, ca.IssuingFile, ca.BundleFile} {
		if len(secretKey(t, s, key)) == 0 {
			t.Errorf("no %s in the Secret", key)
		}
	}
	s.Down()
	if err := second.Rotate(); err == nil {
		t.Error("the Secret was read from a server that is away")
	}
	if !bytes.Equal(first.Trust().Roots, second.Trust().Roots) {
		t.Error("the authority was lost with the server")
	}
}

func TestOpenAuthorityWaitsForTheOneThatWrites(t *testing.T) {
	s := kubeapi.Start(t)
	var leading atomic.Bool
	secret, err := NewSecret(s.Client(), "warren-system", leading.Load)
	if err != nil {
		t.Fatal(err)
	}
	got := make(chan error, 1)
	go func() {
		_, err := OpenAuthority(t.Context(), ca.Config{Storage: secret, Log: discard})
		got <- err
	}()
	eventually(t, "it looked", func() bool { return s.Requests("get v1/secrets") > 0 })
	if s.Get("v1/secrets", "warren-system", SecretName) != nil {
		t.Fatal("it wrote")
	}
	leading.Store(true)
	if err := <-got; err != nil {
		t.Fatal(err)
	}
}

// With a Secret of type kubernetes.io/tls every replica signs, and none writes.
func TestTheUsersSecret(t *testing.T) {
	s := kubeapi.Start(t)
	if _, err := open(t, s, always); err != nil {
		t.Fatal(err)
	}
	root := secretKey(t, s, ca.RootFile)
	i := bytes.Index(root, []byte("-----BEGIN CERTIFICATE"))
	s.Delete("v1/secrets", "warren-system", SecretName)
	s.Put("v1/secrets", &corev1.Secret{
		ObjectMeta: metav1.ObjectMeta{Namespace: "warren-system", Name: SecretName}, Type: corev1.SecretTypeTLS,
		Data: map[string][]byte{corev1.TLSPrivateKeyKey: root[:i], corev1.TLSCertKey: root[i:]},
	})
	for _, leading := range []func() bool{never, always} {
		a, err := open(t, s, leading)
		if err != nil {
			t.Fatal(err)
		}
		if !bytes.Equal(a.Trust().Roots, root[i:]) {
			t.Error("the bundle is not the user's root")
		}
	}
	if len(secretKey(t, s, ca.IssuingFile))+len(secretKey(t, s, ca.BundleFile)) > 0 {
		t.Error("the user's Secret was written to")
	}
	s.Put("v1/secrets", &corev1.Secret{
		ObjectMeta: metav1.ObjectMeta{Namespace: "warren-system", Name: SecretName}, Type: corev1.SecretTypeOpaque,
		Data: map[string][]byte{ca.RootFile: []byte("garbage")},
	})
	if _, err := open(t, s, always); err == nil || mayPass(err) {
		t.Errorf("a damaged Secret: %v", err)
	}
	if string(secretKey(t, s, ca.RootFile)) != "garbage" {
		t.Error("a damaged key was replaced")
	}
}

// An operator who changes roots removes the intermediate. A replica that may not make one goes on with what it has.
func TestAReplicaWithoutAnIntermediateGoesOn(t *testing.T) {
	s := kubeapi.Start(t)
	if _, err := open(t, s, always); err != nil {
		t.Fatal(err)
	}
	a, err := open(t, s, never)
	if err != nil {
		t.Fatal(err)
	}
	s.Put("v1/secrets", &corev1.Secret{
		ObjectMeta: metav1.ObjectMeta{Namespace: "warren-system", Name: SecretName},
		Data:       map[string][]byte{ca.RootFile: secretKey(t, s, ca.RootFile)},
	})
	if err := a.Rotate(); !errors.Is(err, ErrNotLeading) {
		t.Errorf("got %v", err)
	}
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	id := mesh.Identity{TrustDomain: "cluster.local", Namespace: "shop", ServiceAccount: "web"}
	if _, err := a.Issue(id, key.Public(), 0); err != nil {
		t.Error(err)
	}
}

// However it comes to a write, a replica that does not lead makes none.
func TestALostLeaseStopsAWriteUnderWay(t *testing.T) {
	s := kubeapi.Start(t)
	var leading atomic.Bool
	secret, err := NewSecret(s.Client(), "warren-system", leading.Load)
	if err != nil {
		t.Fatal(err)
	}
	leading.Store(true)
	f, err := secret.Open()
	if err != nil {
		t.Fatal(err)
	}
	leading.Store(false)
	if err := f.Write(ca.RootFile, []byte("x")); !errors.Is(err, ErrNotLeading) || s.Get("v1/secrets", "warren-system", SecretName) != nil {
		t.Errorf("it wrote: %v", err)
	}
}

func TestALostLeaseStopsTheBundleUnderWay(t *testing.T) {
	s := kubeapi.Start(t)
	store, all := mesh.NewStore(), []string{"warren-system", "shop", "other"}
	for _, ns := range all[1:] {
		store.Apply(mesh.PutWorkload{Workload: &mesh.Workload{UID: ns, PodUID: ns, Namespace: ns, Name: "pod", Capture: mesh.Captured}})
	}
	asked := 0
	b := newBundle(t, s, func(cfg *BundleConfig) {
		cfg.Term = func() (time.Time, bool) { asked++; return time.Time{}, asked <= 3 } // at the start, and before the first two writes
		cfg.Snapshot, cfg.Namespaces = store.Snapshot, func() []string { return all }
	})
	publishEverywhere(t, b, ca.Trust{Roots: []byte("roots")})
	written := slices.DeleteFunc(all, func(ns string) bool { return s.Get("v1/configmaps", ns, BundleName) == nil })
	if !slices.Equal(written, []string{"warren-system", "other"}) {
		t.Errorf("ConfigMaps of %v were written, want control's own and one: the lease was lost after that", written)
	}
}

func TestASecretWrittenMeanwhileStays(t *testing.T) {
	s := kubeapi.Start(t)
	secret, err := NewSecret(s.Client(), "warren-system", always)
	if err != nil {
		t.Fatal(err)
	}
	write := func(f ca.Files) error { return f.Write(ca.RootFile, []byte("x")) }
	early, err := secret.Open()
	if err != nil {
		t.Fatal(err)
	}
	later, err := secret.Open()
	if err != nil {
		t.Fatal(err)
	}
	if err := write(early); err != nil {
		t.Fatal(err)
	}
	if err := write(later); err == nil || !mayPass(err) {
		t.Errorf("created twice: %v", err)
	}
	if later, err = secret.Open(); err != nil {
		t.Fatal(err)
	}
	if err := write(early); err != nil {
		t.Fatal(err)
	}
	if err := write(later); err == nil || !mayPass(err) {
		t.Errorf("an older version was written over a newer: %v", err)
	}
}

func TestBundleWhereItIsNeeded(t *testing.T) {
	s := kubeapi.Start(t)
	store := mesh.NewStore()
	all := []string{"warren-system", "shop", "other"}
	everywhere := func(cfg *BundleConfig) { cfg.Snapshot, cfg.Namespaces = store.Snapshot, func() []string { return all } }
	b := newBundle(t, s, everywhere)
	pod := func(c mesh.Capture) {
		store.Apply(mesh.PutWorkload{Workload: &mesh.Workload{UID: "x", PodUID: "u", Namespace: "shop", Name: "cart", Capture: c}})
	}
	s.Put("v1/configmaps", &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Namespace: "other", Name: BundleName}, Data: map[string]string{"own": "x"}})
	publish := func(pem string) { t.Helper(); publishEverywhere(t, b, ca.Trust{Roots: []byte(pem)}) }
	root := func(ns string) string { return rootsIn(s, ns) }
	publish("one")
	if root("warren-system") != "one" || s.Get("v1/configmaps", "shop", BundleName) != nil {
		t.Error("not in its own namespace, or in one that is not enrolled")
	}
	pod(mesh.Pending)
	publish("one")
	if root("shop") != "one" {
		t.Error("not in an enrolled namespace")
	}
	before := s.Requests("get v1/configmaps")
	publish("one")
	if n := s.Requests("get v1/configmaps") - before; n != 0 {
		t.Errorf("%d looks at what was just written", n)
	}
	publish("two")
	if root("shop") != "two" || root("warren-system") != "two" {
		t.Error("a new root did not arrive")
	}
	pod(mesh.Outside)
	publish("two")
	if s.Get("v1/configmaps", "shop", BundleName) != nil {
		t.Error("left behind after un-enrolment")
	}
	if s.Get("v1/configmaps", "other", BundleName) == nil {
		t.Error("a user's ConfigMap of that name is gone")
	}
	s.Down()
	if err := b.PublishTrust(t.Context(), ca.Trust{Roots: []byte("three")}); err == nil {
		t.Error("published on a server that is away")
	}
	idle := newBundle(t, s, func(cfg *BundleConfig) { everywhere(cfg); cfg.Term = follows })
	if err := idle.PublishTrust(t.Context(), ca.Trust{Roots: []byte("x")}); err != nil {
		t.Errorf("a replica that does not write has something to complain of: %v", err)
	}
}

func TestRevocationListsArePublished(t *testing.T) {
	s := kubeapi.Start(t)
	b := newBundle(t, s, nil)
	for _, step := range []struct {
		name  string
		fresh bool // after a restart
		trust ca.Trust
		want  string
	}{
		{"none", false, ca.Trust{Roots: []byte("r")}, ""},
		{"one", false, ca.Trust{Roots: []byte("r"), Revoked: []byte("list")}, "list"},
		{"unreadable after a restart: the one published stays", true, ca.Trust{Roots: []byte("r2"), KeepRevoked: true}, "list"},
		{"readable again", false, ca.Trust{Roots: []byte("r2"), Revoked: []byte("list 2")}, "list 2"},
		{"removed", false, ca.Trust{Roots: []byte("r2")}, ""},
	} {
		if step.fresh {
			b = newBundle(t, s, nil)
		}
		if err := b.PublishTrust(t.Context(), step.trust); err != nil {
			t.Fatal(err)
		}
		data, _, _ := unstructured.NestedStringMap(s.Get("v1/configmaps", "warren-system", BundleName), "data")
		if got := data[RevokedKey]; got != step.want || data[BundleKey] != string(step.trust.Roots) {
			t.Errorf("%s: list %q, want %q; roots %q", step.name, got, step.want, data[BundleKey])
		}
	}
}

func TestEventsAboutTheSecret(t *testing.T) {
	s := kubeapi.Start(t)
	s.Put("v1/secrets", &corev1.Secret{ObjectMeta: metav1.ObjectMeta{Namespace: "warren-system", Name: SecretName, UID: "secret-uid"}})
	b := newBundle(t, s, nil)
	tell := func(problem error, want int) {
		t.Helper()
		if err := b.PublishProblem(t.Context(), problem); err != nil {
			t.Fatal(err)
		}
		if n := s.Requests("post v1/events"); n != want {
			t.Fatalf("%d Events after %v, want %d", n, problem, want)
		}
	}
	tell(nil, 0)
	tell(errors.New("tls.key: is not the key"), 1)
	tell(errors.New("tls.key: is not the key"), 1)
	tell(nil, 2)
}

// replica stands for election until stopped.
func replica(t *testing.T, s interface{ Client() *apiserver.Client }, name string) (e *Election, terms *atomic.Int32, stop func()) {
	t.Helper()
	e, err := NewElection(s.Client(), "warren-system", name, discard)
	if err != nil {
		t.Fatal(err)
	}
	e.pace(1500*time.Millisecond, 600*time.Millisecond, 100*time.Millisecond)
	terms = new(atomic.Int32)
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- e.Run(ctx, func(context.Context) { terms.Add(1) }) }()
	stop = func() {
		cancel()
		select {
		case err := <-done:
			if err != nil {
				t.Error(err)
			}
		case <-time.After(10 * time.Second):
			t.Error("the election does not end")
		}
	}
	return e, terms, stop
}

func TestOneReplicaWrites(t *testing.T) {
	s := kubeapi.Start(t)
	a, _, stopA := replica(t, s, "a")
	eventually(t, "a leads", a.Leading)
	b, _, stopB := replica(t, s, "b")
	defer stopB()
	ends := time.Now()
	stopA()
	if a.Leading() {
		t.Error("a leads after its end")
	}
	eventually(t, "b follows", b.Leading)
	if since, leads := b.Term(); !leads || since.Before(ends) {
		t.Errorf("b's term began at %v, a's ended after %v", since, ends)
	}
}

func TestALostLeaseStopsTheWritersOnly(t *testing.T) {
	s := kubeapi.Start(t)
	e, terms, stop := replica(t, s, "a")
	defer stop()
	eventually(t, "it leads", e.Leading)
	s.Down()
	eventually(t, "it leads no longer", func() bool { return !e.Leading() })
	s.Up()
	eventually(t, "it leads again", e.Leading)
	if n := terms.Load(); n != 2 {
		t.Errorf("%d terms, want 2", n)
	}
}
