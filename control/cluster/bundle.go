// SPDX-License-Identifier: Apache-2.0

package cluster

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/rest"

	"github.com/warren-mesh/warren/mesh"
	"github.com/warren-mesh/warren/mesh/kube/apiserver"
)

const (
	// BundleName is the ConfigMap of the roots, in control's namespace and in every namespace with a pod in the
	// mesh; BundleKey its one key.
	BundleName = "warren-ca-root"
	BundleKey  = "root-cert.pem"
	// trusted is how long a ConfigMap that was as it should be is not looked at again.
	trusted = time.Minute
)

// Bundle publishes the root bundle in ConfigMaps, and removes those of namespaces that left the mesh. It writes
// in the leading replica only; in the others it says all is well. See NewBundle.
type Bundle struct {
	namespace  string
	core       rest.Interface
	leading    func() bool
	mesh       func() *mesh.Snapshot
	namespaces func() []string
	now        func() time.Time

	mu      sync.Mutex
	pem     string
	was     map[string]bool      // which namespaces needed it at the last look
	checked map[string]time.Time // by namespace: when it was last as it should be
}

// NewBundle returns a publisher. snapshot may return nil while objects are not read yet; namespaces are all there
// are.
func NewBundle(client *apiserver.Client, namespace string, leading func() bool, snapshot func() *mesh.Snapshot, namespaces func() []string) (*Bundle, error) {
	core, err := client.Group(corev1.SchemeGroupVersion)
	if err != nil {
		return nil, err
	}
	return &Bundle{
		namespace: namespace, core: core, leading: leading, mesh: snapshot, namespaces: namespaces, now: time.Now,
		checked: map[string]time.Time{},
	}, nil
}

// PublishBundle brings the ConfigMaps up to date. An error is of some namespaces; the others are done.
func (b *Bundle) PublishBundle(ctx context.Context, pem []byte) error {
	b.mu.Lock()
	defer b.mu.Unlock()
	if !b.leading() {
		clear(b.checked)
		return nil
	}
	if string(pem) != b.pem {
		b.pem = string(pem)
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
		if err := b.bring(ctx, ns, want); err != nil {
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
	data := map[string]string{BundleKey: b.pem}
	switch {
	case want && missing:
		err = b.core.Post().Namespace(ns).Resource("configmaps").Body(&corev1.ConfigMap{
			ObjectMeta: metav1.ObjectMeta{Namespace: ns, Name: BundleName, Labels: labels}, Data: data,
		}).Do(ctx).Error()
		if apierrors.HasStatusCause(err, corev1.NamespaceTerminatingCause) {
			return nil
		}
		return err
	case want && have.Data[BundleKey] != b.pem:
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
