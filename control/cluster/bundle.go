// SPDX-License-Identifier: Apache-2.0

package cluster

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/metadata"
	"k8s.io/client-go/rest"

	"github.com/warren-mesh/warren/control/ca"
	"github.com/warren-mesh/warren/mesh"
	"github.com/warren-mesh/warren/mesh/kube/apiserver"
)

const (
	// BundleName is the ConfigMap of the roots, in control's namespace and in every namespace with a pod in the
	// mesh; BundleKey holds the roots, RevokedKey the revocation lists where there are any.
	BundleName = "warren-ca-root"
	BundleKey  = "root-cert.pem"
	RevokedKey = ca.CRLFile
	// trusted is how long a ConfigMap that was as it should be is not looked at again.
	trusted = time.Minute
)

// BundleConfig of a Bundle.
type BundleConfig struct {
	Client *apiserver.Client
	// Namespace is control's own: nodes read the ConfigMap there.
	Namespace string
	// Term says whether this replica may write, and since when.
	Term func() (since time.Time, leads bool)
	// Snapshot is the mesh as control sees it; nil while the objects are not read yet.
	Snapshot func() *mesh.Snapshot
	// Namespaces are all there are.
	Namespaces func() []string
	// Now is the clock; nil means time.Now.
	Now func() time.Time
	Log *slog.Logger
}

// Bundle publishes roots and revocation lists in ConfigMaps: by PublishTrust in control's own namespace, which is what
// nodes read and readiness goes by, and by Run in the others. What is wrong with the authority's Secret it tells by
// Events. It writes in the leading replica only; in the others it says all is well. See NewBundle.
type Bundle struct {
	cfg      BundleConfig
	core     rest.Interface
	metadata metadata.Interface
	copies   *copies

	mu      sync.Mutex
	issue   issue
	checked time.Time // when the ConfigMap last held it; zero: not that we know
	told    string    // the problem last published
}

// NewBundle returns a publisher.
func NewBundle(cfg BundleConfig) (*Bundle, error) {
	if cfg.Now == nil {
		cfg.Now = time.Now
	}
	core, err1 := cfg.Client.Group(corev1.SchemeGroupVersion)
	meta, err2 := cfg.Client.Metadata()
	if err := errors.Join(err1, err2); err != nil {
		return nil, err
	}
	b := &Bundle{cfg: cfg, core: core, metadata: meta}
	b.copies = newCopies(cfg, b.bring)
	return b, nil
}

// PublishTrust brings the ConfigMap of control's namespace up to date, and has Run follow with the others. In each term it
// begins with what was read in it: the leader before may have published what was written since this replica last looked.
func (b *Bundle) PublishTrust(ctx context.Context, t ca.Trust) error {
	b.mu.Lock()
	defer b.mu.Unlock()
	since, leads := b.cfg.Term()
	switch {
	case !leads:
		b.retire()
		return nil
	case t.Read.Before(since):
		return ca.ErrStale
	case t.ListsRead.Before(since): // those in the files can't be used now, and it could use those of before
		t.Revoked, t.KeepRevoked = nil, true
	}
	if next := (issue{t, since}); !next.same(b.issue) {
		b.issue, b.checked = next, time.Time{}
	}
	if b.cfg.Now().Sub(b.checked) >= trusted {
		err := b.bring(ctx, b.cfg.Namespace, b.issue, true)
		if errors.Is(err, ErrNotLeading) { // the lease was lost meanwhile: the rest is another's
			b.retire()
			return nil
		}
		if err != nil {
			b.checked = time.Time{}
			return fmt.Errorf("ConfigMap %s/%s: %w", b.cfg.Namespace, BundleName, err)
		}
		b.checked = b.cfg.Now()
	}
	b.copies.spread(b.issue)
	return nil
}

// retire forgets what this replica knew while it led.
func (b *Bundle) retire() {
	b.checked = time.Time{}
	b.copies.stop()
}

// Run keeps the ConfigMaps of all other namespaces up to date until ctx ends.
func (b *Bundle) Run(ctx context.Context) error { return b.copies.run(ctx) }

// issue is what is published in a term.
type issue struct {
	trust ca.Trust
	term  time.Time // when it began
}

func (i issue) same(o issue) bool {
	return i.term.Equal(o.term) && bytes.Equal(i.trust.Roots, o.trust.Roots) &&
		bytes.Equal(i.trust.Revoked, o.trust.Revoked) && i.trust.KeepRevoked == o.trust.KeepRevoked
}

// bring has the namespace's ConfigMap hold what is trusted, or be gone where nobody wants it.
func (b *Bundle) bring(ctx context.Context, ns string, i issue, want bool) error {
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	have := &corev1.ConfigMap{}
	err := b.core.Get().Namespace(ns).Resource("configmaps").Name(BundleName).Do(ctx).Into(have)
	missing := apierrors.IsNotFound(err)
	if err != nil && !missing {
		return err
	}
	t := i.trust
	data := map[string]string{BundleKey: string(t.Roots)}
	switch kept, ok := have.Data[RevokedKey]; {
	case t.Revoked != nil:
		data[RevokedKey] = string(t.Revoked)
	case t.KeepRevoked && ok:
		data[RevokedKey] = kept
	}
	if since, leads := b.cfg.Term(); !leads || !since.Equal(i.term) {
		return ErrNotLeading
	}
	switch {
	case want && missing:
		err = b.core.Post().Namespace(ns).Resource("configmaps").Body(&corev1.ConfigMap{
			ObjectMeta: metav1.ObjectMeta{Namespace: ns, Name: BundleName, Labels: labels}, Data: data,
		}).Do(ctx).Error()
		if apierrors.HasStatusCause(err, corev1.NamespaceTerminatingCause) {
			return nil
		}
		return err
	case want && !maps.Equal(have.Data, data):
		have.Data, have.Labels = data, labels
		return b.core.Put().Namespace(ns).Resource("configmaps").Name(BundleName).Body(have).Do(ctx).Error()
	case !want && !missing && have.Labels["app.kubernetes.io/managed-by"] == labels["app.kubernetes.io/managed-by"]:
		err = b.core.Delete().Namespace(ns).Resource("configmaps").Name(BundleName).Do(ctx).Error()
		if apierrors.IsNotFound(err) {
			return nil
		}
		return err
	}
	return nil
}
