// SPDX-License-Identifier: Apache-2.0

package manifests

import (
	"errors"
	"fmt"
	"regexp"
	"strings"

	istiosecurity "istio.io/client-go/pkg/apis/security/v1"
	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	networkingv1 "k8s.io/api/networking/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	sigsjson "sigs.k8s.io/json"

	"github.com/warren-mesh/warren/api/v1alpha1"
	"github.com/warren-mesh/warren/mesh/kube"
)

// kinds are those that are read, with the one version of each.
var kinds = map[string]struct {
	version    string
	namespaced bool
	make       func() runtime.Object
}{
	"Namespace":           {"v1", false, func() runtime.Object { return &corev1.Namespace{} }},
	"Node":                {"v1", false, func() runtime.Object { return &corev1.Node{} }},
	"Pod":                 {"v1", true, func() runtime.Object { return &corev1.Pod{} }},
	"Service":             {"v1", true, func() runtime.Object { return &corev1.Service{} }},
	"ServiceAccount":      {"v1", true, func() runtime.Object { return &corev1.ServiceAccount{} }},
	"ServiceCIDR":         {"networking.k8s.io/v1", false, func() runtime.Object { return &networkingv1.ServiceCIDR{} }},
	"EndpointSlice":       {"discovery.k8s.io/v1", true, func() runtime.Object { return &discoveryv1.EndpointSlice{} }},
	"MeshConfig":          {"warren.dev/v1alpha1", false, func() runtime.Object { return &v1alpha1.MeshConfig{} }},
	"PeerAuthentication":  {"security.istio.io/v1", true, func() runtime.Object { return &istiosecurity.PeerAuthentication{} }},
	"AuthorizationPolicy": {"security.istio.io/v1", true, func() runtime.Object { return &istiosecurity.AuthorizationPolicy{} }},
}

// object is what a document holds.
type object struct {
	doc      document
	key      kube.Key
	obj      runtime.Object // nil when it is refused
	remnant  runtime.Object // of a policy that is refused
	problems []kube.Problem
}

// decode reads a document's object strictly. ok is false for a kind that is none of Warren's business. An
// object whose key is zero can't even be named.
func decode(d document) (o object, ok bool) {
	o.doc = d
	fail := func(field string, err error) {
		p := kube.Problem{Source: d.source(field), Field: field, Err: err}
		if o.key != (kube.Key{}) {
			p.Object = o.key.String()
			o.remnant = kube.Remnant(o.key, d.json)
		}
		o.obj, o.problems = nil, append(o.problems, p)
	}
	if d.err != nil {
		fail("", d.err)
		return o, true
	}
	var head struct {
		metav1.TypeMeta `json:",inline"`
		Metadata        struct {
			Name      string `json:"name"`
			Namespace string `json:"namespace"`
		} `json:"metadata"`
	}
	if err := sigsjson.UnmarshalCaseSensitivePreserveInts(d.json, &head); err != nil {
		fail(fieldOf(err), fmt.Errorf("read object: %w", err))
		return o, true
	}
	if head.Kind == "" || head.APIVersion == "" {
		fail("", errors.New("read object: apiVersion and kind are required"))
		return o, true
	}
	kind, known := kinds[head.Kind]
	if !known || group(head.APIVersion) != group(kind.version) {
		if g := group(head.APIVersion); g != group(kinds["PeerAuthentication"].version) && g != v1alpha1.GroupVersion.Group {
			return o, false
		}
		o.key = kube.Key{Kind: head.Kind, Namespace: orDefault(head.Metadata.Namespace), Name: head.Metadata.Name}
		fail("kind", fmt.Errorf("kind %s of %s is not applied by this version", head.Kind, head.APIVersion))
		return o, true
	}
	o.key = kube.Key{Kind: head.Kind, Name: head.Metadata.Name}
	if kind.namespaced {
		o.key.Namespace = orDefault(head.Metadata.Namespace)
	}
	switch {
	case head.Metadata.Name == "":
		fail("metadata.name", errors.New("metadata.name: Required value"))
		return o, true
	case head.APIVersion != kind.version:
		fail("apiVersion", fmt.Errorf("apiVersion: %s is not read, want %s", head.APIVersion, kind.version))
		return o, true
	}
	o.obj = kind.make()
	strict, err := unmarshal(d.json, o.obj)
	if err != nil {
		fail(fieldOf(err), fmt.Errorf("read object: %w", err))
		return o, true
	}
	for _, err := range strict {
		fail(fieldOf(err), err)
	}
	if o.obj != nil && kind.namespaced {
		o.obj.(metav1.Object).SetNamespace(o.key.Namespace)
	}
	return o, true
}

// unmarshal reads j into o and gives the unknown fields and values besides. Istio's types pass over what
// they don't know, so their spec is compared with its descriptor. A panic of a type's own reader is an error.
func unmarshal(j []byte, o runtime.Object) (strict []error, err error) {
	defer func() {
		if r := recover(); r != nil {
			err = fmt.Errorf("panic: %v", r)
		}
	}()
	if strict := kube.StrictSpec(j, o); len(strict) > 0 {
		return strict, nil
	}
	return sigsjson.UnmarshalStrict(j, o, sigsjson.DisallowUnknownFields)
}

var unknownField = regexp.MustCompile(`unknown field "([^"]+)"`)
var goField = regexp.MustCompile(`Go struct field [A-Za-z]+\.([^ ]+) of type`)

// fieldOf finds the path an error of the reader is about, or "".
func fieldOf(err error) string {
	var fe *kube.FieldError
	if errors.As(err, &fe) {
		return fe.Field
	}
	if strict, ok := err.(sigsjson.FieldError); ok {
		return strict.FieldPath()
	}
	for _, re := range []*regexp.Regexp{unknownField, goField} {
		if m := re.FindStringSubmatch(err.Error()); m != nil {
			return m[1]
		}
	}
	return ""
}

func group(apiVersion string) string {
	g, _, ok := strings.Cut(apiVersion, "/")
	if !ok {
		return ""
	}
	return g
}

// orDefault is kubectl's rule for an object that names no namespace.
func orDefault(namespace string) string {
	if namespace == "" {
		return metav1.NamespaceDefault
	}
	return namespace
}
