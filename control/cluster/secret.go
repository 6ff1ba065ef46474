// SPDX-License-Identifier: Apache-2.0

package cluster

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/rest"

	"github.com/warren-mesh/warren/control/ca"
	"github.com/warren-mesh/warren/mesh/kube/apiserver"
)

// SecretName is the Secret of the authority's files, in control's namespace.
const SecretName = "warren-ca"

// callTimeout bounds one request to the API server.
const callTimeout = 10 * time.Second

// labels mark what control writes, so that an uninstallation finds it.
var labels = map[string]string{"app.kubernetes.io/managed-by": "warren-control", "app.kubernetes.io/part-of": "warren"}

// Secret keeps the authority's files in a Secret, each as the key of its name: root.pem, issuing.pem and bundle.pem of
// an authority of our own, or those of one that the operator brings. It is changed by the leading replica only, and
// only from the version that was read. See NewSecret.
type Secret struct {
	namespace string
	core      rest.Interface
	leading   func() bool
}

var _ ca.Storage = (*Secret)(nil)

// NewSecret returns storage in the namespace; leading says whether this replica may write.
func NewSecret(client *apiserver.Client, namespace string, leading func() bool) (*Secret, error) {
	core, err := client.Group(corev1.SchemeGroupVersion)
	if err != nil {
		return nil, err
	}
	return &Secret{namespace: namespace, core: core, leading: leading}, nil
}

// Open reads the Secret. One that is missing has no files.
func (s *Secret) Open() (ca.Files, error) {
	ctx, cancel := context.WithTimeout(context.Background(), callTimeout)
	defer cancel()
	f := &secretFiles{secret: s, object: &corev1.Secret{}}
	err := s.core.Get().Namespace(s.namespace).Resource("secrets").Name(SecretName).Do(ctx).Into(f.object)
	switch {
	case apierrors.IsNotFound(err):
		f.object = nil
	case err != nil:
		return nil, fmt.Errorf("read Secret %s/%s: %w", s.namespace, SecretName, err)
	}
	return f, nil
}

// secretFiles are the files as of one version of the Secret.
type secretFiles struct {
	secret *Secret
	object *corev1.Secret // nil: there is none
}

// Read returns one key's value.
func (f *secretFiles) Read(name string) ([]byte, error) {
	if f.object == nil {
		return nil, fs.ErrNotExist
	}
	data, ok := f.object.Data[name]
	if !ok {
		return nil, fs.ErrNotExist
	}
	return bytes.Clone(data), nil
}

// Writable is nil in the leading replica.
func (f *secretFiles) Writable() error {
	if !f.secret.leading() {
		return ErrNotLeading
	}
	return nil
}

// Path names the key.
func (f *secretFiles) Path(name string) string {
	return fmt.Sprintf("Secret %s/%s key %s", f.secret.namespace, SecretName, name)
}

// Write creates the Secret, or updates the version that was read: a conflict with another writer is an error, and
// what that one wrote stays.
func (f *secretFiles) Write(name string, data []byte) error {
	if err := f.Writable(); err != nil {
		return fmt.Errorf("write %s: %w", f.Path(name), err)
	}
	ctx, cancel := context.WithTimeout(context.Background(), callTimeout)
	defer cancel()
	core, out := f.secret.core, &corev1.Secret{}
	var err error
	if f.object == nil {
		err = core.Post().Namespace(f.secret.namespace).Resource("secrets").Body(&corev1.Secret{
			ObjectMeta: metav1.ObjectMeta{Namespace: f.secret.namespace, Name: SecretName, Labels: labels},
			Type:       corev1.SecretTypeOpaque,
			Data:       map[string][]byte{name: bytes.Clone(data)},
		}).Do(ctx).Into(out)
	} else {
		next := f.object.DeepCopy()
		next.Data = maps.Clone(next.Data)
		if next.Data == nil {
			next.Data = map[string][]byte{}
		}
		next.Data[name] = bytes.Clone(data)
		err = core.Put().Namespace(f.secret.namespace).Resource("secrets").Name(SecretName).Body(next).Do(ctx).Into(out)
	}
	if err != nil {
		return fmt.Errorf("write %s: %w", f.Path(name), err)
	}
	f.object = out
	return nil
}

// Close forgets the keys.
func (f *secretFiles) Close() {
	if f.object == nil {
		return
	}
	for _, data := range f.object.Data {
		clear(data)
	}
	f.object = nil
}

// openRetry is the pause before the authority is tried again.
const openRetry = 500 * time.Millisecond

// OpenAuthority opens the authority as soon as that is possible: the API server may be away, and of a new mesh's
// replicas one makes the keys while the others wait for them. It gives up when ctx ends, and over files that are
// damaged.
func OpenAuthority(ctx context.Context, cfg ca.Config) (*ca.Authority, error) {
	told := ""
	for {
		a, err := ca.Open(cfg)
		if err == nil || !mayPass(err) {
			return a, err
		}
		if told != err.Error() {
			told = err.Error()
			cfg.Log.Info("waiting for the authority", "err", err)
		}
		select {
		case <-ctx.Done():
			return nil, ctx.Err()
		case <-time.After(openRetry):
		}
	}
}

// mayPass reports whether an error may pass by itself: another replica is to write first or did so meanwhile, or
// the API server does not answer.
func mayPass(err error) bool {
	return errors.Is(err, ErrNotLeading) || apierrors.IsConflict(err) || apierrors.IsAlreadyExists(err) || away(err)
}
