// SPDX-License-Identifier: Apache-2.0

package netns

import (
	"bytes"
	"crypto/rand"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/yaml"
)

// key names an object of the mesh.
type key struct{ kind, namespace, name string }

// stored is an object: the file it is in, and its typed form where the harness itself reads it.
type stored struct {
	file  string
	typed any
}

func newUID() types.UID {
	var b [16]byte
	_, _ = rand.Read(b[:]) // never fails
	b[6], b[8] = b[6]&0x0f|0x40, b[8]&0x3f|0x80
	return types.UID(fmt.Sprintf("%x-%x-%x-%x-%x", b[:4], b[4:6], b[6:8], b[8:10], b[10:]))
}

func corev1UID(s string) types.UID { return types.UID(s) }

// put writes a typed object. The caller holds the mesh's lock.
func (m *Mesh) put(o metav1.Object) {
	b, err := yaml.Marshal(o)
	if err == nil {
		err = m.putYAML(b)
	}
	if err != nil {
		m.t.Errorf("write object %s: %v", o.GetName(), err)
	}
}

// putYAML writes one document.
func (m *Mesh) putYAML(doc []byte) error {
	var head struct {
		metav1.TypeMeta `json:",inline"`
		Metadata        struct{ Name, Namespace string } `json:"metadata"`
	}
	if err := yaml.Unmarshal(doc, &head); err != nil {
		return err
	}
	k := key{head.Kind, head.Metadata.Namespace, head.Metadata.Name}
	s := stored{file: filepath.Join(m.Manifests(), k.file())}
	switch head.Kind {
	case "Pod":
		s.typed = &corev1.Pod{}
	case "Service":
		s.typed = &corev1.Service{}
	case "Namespace":
		s.typed = &corev1.Namespace{}
	}
	if s.typed != nil {
		if err := yaml.Unmarshal(doc, s.typed); err != nil {
			return err
		}
	}
	if err := replaceFile(s.file, doc); err != nil {
		return err
	}
	m.objects[k] = s
	return nil
}

func (k key) file() string {
	parts := []string{strings.ToLower(k.kind)}
	if k.namespace != "" {
		parts = append(parts, k.namespace)
	}
	return strings.Join(append(parts, k.name), "-") + ".yaml"
}

// replaceFile writes by rename, so that who watches sees the old file or the new one.
func replaceFile(path string, b []byte) error {
	tmp := filepath.Join(filepath.Dir(path), "."+filepath.Base(path)+".tmp")
	if err := os.WriteFile(tmp, b, 0o644); err != nil {
		return err
	}
	return os.Rename(tmp, path)
}

// drop removes an object; a missing one is no error. The caller holds the lock.
func (m *Mesh) drop(k key) {
	if s, ok := m.objects[k]; ok {
		delete(m.objects, k)
		if err := os.Remove(s.file); err != nil {
			m.t.Errorf("delete object: %v", err)
		}
	}
}

// Apply writes objects given as YAML, one or more documents, as `kubectl apply` would.
func (m *Mesh) Apply(text string) {
	m.t.Helper()
	m.mu.Lock()
	defer m.mu.Unlock()
	for _, doc := range documents(text) {
		if err := m.putYAML(doc); err != nil {
			m.t.Fatalf("apply: %v\n%s", err, doc)
		}
	}
	m.changed()
}

func documents(text string) [][]byte {
	var out [][]byte
	for _, doc := range bytes.Split([]byte("\n"+text), []byte("\n---")) {
		if len(bytes.TrimSpace(doc)) > 0 {
			out = append(out, doc)
		}
	}
	return out
}

// Remove deletes an object by kind, namespace ("" for cluster-wide ones) and name.
func (m *Mesh) Remove(kind, namespace, name string) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.drop(key{kind, namespace, name})
	m.changed()
}

// NamespaceOption changes a namespace's object.
type NamespaceOption func(*corev1.Namespace)

// Enrolled labels the namespace as part of the mesh.
func Enrolled() NamespaceOption {
	return func(n *corev1.Namespace) { n.Labels["warren.dev/mesh"] = "enabled" }
}

// Namespace makes a namespace, or changes it.
func (m *Mesh) Namespace(name string, options ...NamespaceOption) string {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.ensureNamespace(name)
	n := m.objects[key{"Namespace", "", name}].typed.(*corev1.Namespace)
	if n.Labels == nil {
		n.Labels = map[string]string{}
	}
	for _, o := range options {
		o(n)
	}
	m.put(n)
	return name
}

// Enrol makes a namespace part of the mesh; Unenrol takes it out.
func (m *Mesh) Enrol(namespace string) { m.Namespace(namespace, Enrolled()) }

// Unenrol takes a namespace out of the mesh.
func (m *Mesh) Unenrol(namespace string) {
	m.Namespace(namespace, func(n *corev1.Namespace) { delete(n.Labels, "warren.dev/mesh") })
}

// Strict lets a namespace accept mutual TLS only; "" or "warren-system" means the whole mesh.
func (m *Mesh) Strict(namespace string) { m.peerAuthentication(namespace, "STRICT") }

// Permissive lets a namespace accept plaintext as well, which is the default.
func (m *Mesh) Permissive(namespace string) { m.peerAuthentication(namespace, "PERMISSIVE") }

func (m *Mesh) peerAuthentication(namespace, mode string) {
	if namespace == "" {
		namespace = systemNamespace
	}
	m.Apply(fmt.Sprintf(`apiVersion: security.istio.io/v1
kind: PeerAuthentication
metadata: {name: default, namespace: %s}
spec: {mtls: {mode: %s}}
`, namespace, mode))
}

// ensureNamespace and ensureServiceAccount make what a pod needs. The caller holds the lock.
func (m *Mesh) ensureNamespace(name string) {
	if _, ok := m.objects[key{"Namespace", "", name}]; !ok {
		m.put(&corev1.Namespace{
			TypeMeta:   metav1.TypeMeta{APIVersion: "v1", Kind: "Namespace"},
			ObjectMeta: metav1.ObjectMeta{Name: name, UID: newUID(), Labels: map[string]string{"kubernetes.io/metadata.name": name}},
		})
	}
}

func (m *Mesh) ensureServiceAccount(namespace, name string) {
	if _, ok := m.objects[key{"ServiceAccount", namespace, name}]; !ok {
		m.put(&corev1.ServiceAccount{
			TypeMeta:   metav1.TypeMeta{APIVersion: "v1", Kind: "ServiceAccount"},
			ObjectMeta: metav1.ObjectMeta{Name: name, Namespace: namespace, UID: newUID()},
		})
	}
}

func serviceCIDR() *networkingv1.ServiceCIDR {
	return &networkingv1.ServiceCIDR{
		TypeMeta:   metav1.TypeMeta{APIVersion: "networking.k8s.io/v1", Kind: "ServiceCIDR"},
		ObjectMeta: metav1.ObjectMeta{Name: "kubernetes", UID: newUID()},
		Spec:       networkingv1.ServiceCIDRSpec{CIDRs: []string{servicesIPv4.String(), servicesIPv6.String()}},
	}
}

// Change edits the pod's object: labels, annotations, readiness.
func (p *Pod) Change(edit func(*corev1.Pod)) {
	m := p.Node.mesh
	m.mu.Lock()
	defer m.mu.Unlock()
	if s, ok := m.objects[key{"Pod", p.Namespace, p.Name}]; ok {
		o := s.typed.(*corev1.Pod)
		edit(o)
		m.put(o)
		m.changed()
	}
}

// SetReady changes the pod's Ready condition.
func (p *Pod) SetReady(ready bool) { p.Change(func(o *corev1.Pod) { setReady(o, ready) }) }
