// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"context"
	"fmt"
	"maps"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/rand"

	"github.com/warren-mesh/warren/mesh"
)

const (
	// enrolment is the annotation by which a namespace or a pod joins the mesh.
	enrolment = "warren.dev/mesh"
	// trustDomain is the chart's default.
	trustDomain = "cluster.local"
)

// Namespace is a test's own namespace.
type Namespace struct {
	t    testing.TB
	mesh *Mesh
	Name string

	enrolled bool
}

// NamespaceOption changes a namespace before it is made.
type NamespaceOption func(*corev1.Namespace)

// Enrolled takes the namespace into the mesh.
func Enrolled() NamespaceOption { return Annotated(enrolment, "enabled") }

// Annotated sets an annotation.
func Annotated(key, value string) NamespaceOption {
	return func(n *corev1.Namespace) { n.Annotations[key] = value }
}

// Labelled sets a label.
func Labelled(key, value string) NamespaceOption {
	return func(n *corev1.Namespace) { n.Labels[key] = value }
}

// Namespace makes one with a random suffix. When the test fails, everything that helps to understand it is logged; then
// the namespace is deleted, without waiting for the end.
func (m *Mesh) Namespace(t testing.TB, name string, options ...NamespaceOption) *Namespace {
	t.Helper()
	o := &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: name + "-" + rand.String(5), Labels: map[string]string{}, Annotations: map[string]string{}}}
	for _, f := range options {
		f(o)
	}
	began := time.Now()
	if _, err := m.Client().CoreV1().Namespaces().Create(t.Context(), o, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	n := &Namespace{t: t, mesh: m, Name: o.Name, enrolled: o.Annotations[enrolment] == "enabled"}
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
		defer cancel()
		if t.Failed() {
			var b strings.Builder
			m.describe(ctx, &b, n.Name, began)
			t.Log(b.String())
		}
		if err := m.Client().CoreV1().Namespaces().Delete(ctx, n.Name, metav1.DeleteOptions{}); err != nil {
			t.Logf("delete namespace %s: %v", n.Name, err)
		}
	})
	return n
}

// In is the same namespace in a subtest.
func (n *Namespace) In(t testing.TB) *Namespace {
	sub := *n
	sub.t = t
	return &sub
}

// Apply applies a YAML stream; objects that name no namespace go into this one.
func (n *Namespace) Apply(format string, args ...any) {
	n.t.Helper()
	if err := n.mesh.Apply(n.t.Context(), n.own(fmt.Sprintf(format, args...))); err != nil {
		n.t.Fatal(err)
	}
}

// Delete deletes what Apply made; it doesn't wait for the end.
func (n *Namespace) Delete(format string, args ...any) {
	n.t.Helper()
	if err := n.mesh.Delete(n.t.Context(), n.own(fmt.Sprintf(format, args...))); err != nil {
		n.t.Fatal(err)
	}
}

// Enrol takes the namespace into the mesh, or out of it. Pods are not waited for: see Pod.WaitCaptured.
func (n *Namespace) Enrol(enrolled bool) {
	n.t.Helper()
	value := `null`
	if enrolled {
		value = `"enabled"`
	}
	patch := fmt.Sprintf(`{"metadata":{"annotations":{%q:%s}}}`, enrolment, value)
	_, err := n.mesh.Client().CoreV1().Namespaces().Patch(n.t.Context(), n.Name, types.MergePatchType, []byte(patch), metav1.PatchOptions{})
	if err != nil {
		n.t.Fatal(err)
	}
	n.enrolled = enrolled
}

// Strict demands mutual TLS of the namespace's pods, or no longer.
func (n *Namespace) Strict(strict bool) {
	n.t.Helper()
	const policy = "apiVersion: security.istio.io/v1\nkind: PeerAuthentication\nmetadata: {name: default}\nspec: {mtls: {mode: STRICT}}\n"
	if strict {
		n.Apply(policy)
	} else {
		n.Delete(policy)
	}
}

// Identity is that of a service account.
func (n *Namespace) Identity(account string) string {
	return mesh.Identity{TrustDomain: trustDomain, Namespace: n.Name, ServiceAccount: account}.String()
}

// object is the metadata of an object of this namespace, for app.
func (n *Namespace) object(name, app string, labels, annotations map[string]string) metav1.ObjectMeta {
	all := map[string]string{"app": app}
	maps.Copy(all, labels)
	return metav1.ObjectMeta{Name: name, Namespace: n.Name, Labels: all, Annotations: annotations}
}
