// SPDX-License-Identifier: Apache-2.0

package cluster

import (
	"bytes"
	"context"
	"errors"
	"fmt"
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

// Bundle publishes roots and revocation lists in ConfigMaps, and removes those of namespaces that left the mesh; what
// is wrong with the authority's Secret it tells by Events. It writes in the leading replica only; in the others it says all is well. See NewBundle.
type Bundle struct {
	namespace  string
	core       rest.Interface
	metadata   metadata.Interface
	leading    func() bool
	mesh       func() *mesh.Snapshot
	namespaces func() []string
	now        func() time.Time

	mu      sync.Mutex
	trust   ca.Trust
	told    string               // the problem last published
	was     map[string]bool      // which namespaces needed it at the last look
	checked map[string]time.Time // by namespace: when it was last as it should be
}

// NewBundle returns a publisher. snapshot may return nil while objects are not read yet; namespaces are all there
// are.
func NewBundle(client *apiserver.Client, namespace string, leading func() bool, snapshot func() *mesh.Snapshot, namespaces func() []string) (*Bundle, error) {
	core, err1 := client.Group(corev1.SchemeGroupVersion)
	meta, err2 := client.Metadata()
	if err := errors.Join(err1, err2); err != nil {
		return nil, err
	}
	return &Bundle{
		namespace: namespace, core: core, metadata: meta, leading: leading, mesh: snapshot, namespaces: namespaces, now: time.Now,
		checked: map[string]time.Time{},
	}, nil
}

// PublishTrust brings the ConfigMaps up to date. An error is of some namespaces; the others are done.
func (b *Bundle) PublishTrust(ctx context.Context, t ca.Trust) error {
	b.mu.Lock()
	defer b.mu.Unlock()
	if !b.leading() {
		clear(b.checked)
		return nil
	}
	if !bytes.Equal(t.Roots, b.trust.Roots) || !bytes.Equal(t.Revoked, b.trust.Revoked) || t.KeepRevoked != b.trust.KeepRevoked {
		b.trust = t
		clear(b.checked)
	}
	needed, known := b.needed()
	var errs []error
	for ns, want := range needed {
		if at, ok := b.checked[ns]; ok && (!want || b.now().Sub(at) < trusted) {
			continue // where none is needed, nobody but us makes one
		}
		if !want && !known {
			continue // who needs it is not known yet
		}
		err := b.bring(ctx, ns, want)
		if errors.Is(err, ErrNotLeading) { // the lease was lost meanwhile: the rest is another's
			clear(b.checked)
			return nil
		}
		if err != nil {
			errs = append(errs, fmt.Errorf("ConfigMap %s/%s: %w", ns, BundleName, err))
			continue
		}
		b.checked[ns] = b.now()
	}
	return errors.Join(errs...)
}

// needed are all namespaces, with whether they need the bundle; known is false while that can't be told.
func (b *Bundle) needed() (needed map[string]bool, known bool) {
	needed = map[string]bool{}
	snap := b.mesh()
	if snap != nil {
		for _, ns := range b.namespaces() {
			needed[ns] = false
		}
		snap.Workloads(func(w *mesh.Workload) bool {
			if _, exists := needed[w.Namespace]; exists && w.PodUID != "" && w.Capture != mesh.Outside {
				needed[w.Namespace] = true
			}
			return true
		})
	}
	needed[b.namespace] = true
	for ns, want := range needed {
		if b.was[ns] != want {
			delete(b.checked, ns)
		}
	}
	b.was = needed
	return needed, snap != nil
}

func (b *Bundle) bring(ctx context.Context, ns string, want bool) error {
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	have := &corev1.ConfigMap{}
	err := b.core.Get().Namespace(ns).Resource("configmaps").Name(BundleName).Do(ctx).Into(have)
	missing := apierrors.IsNotFound(err)
	if err != nil && !missing {
		return err
	}
	data := map[string]string{BundleKey: string(b.trust.Roots)}
	switch kept, ok := have.Data[RevokedKey]; {
	case b.trust.Revoked != nil:
		data[RevokedKey] = string(b.trust.Revoked)
	case b.trust.KeepRevoked && ok:
		data[RevokedKey] = kept
	}
	if !b.leading() {
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
