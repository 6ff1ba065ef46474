// SPDX-License-Identifier: Apache-2.0

package kube

import (
	"fmt"
	"strings"

	istiosecurity "istio.io/client-go/pkg/apis/security/v1"
	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	networkingv1 "k8s.io/api/networking/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"

	"github.com/warren-mesh/warren/api/v1alpha1"
	"github.com/warren-mesh/warren/mesh"
)

// Key names one object across kinds. Namespace is empty for cluster-scoped kinds.
type Key struct{ Kind, Namespace, Name string }

// String returns "Pod default/web", or "Node a" for what has no namespace.
func (k Key) String() string {
	if k.Namespace == "" {
		return k.Kind + " " + k.Name
	}
	return k.Kind + " " + k.Namespace + "/" + k.Name
}

// ParseKey undoes Key.String.
func ParseKey(s string) (k Key, ok bool) {
	kind, name, ok := strings.Cut(s, " ")
	if k = (Key{Kind: kind, Name: name}); strings.Contains(name, "/") {
		k.Namespace, k.Name, _ = strings.Cut(name, "/")
	}
	return k, ok && kind != "" && k.Name != ""
}

func (k Key) meshName() mesh.Name { return mesh.Name{Namespace: k.Namespace, Name: k.Name} }

// KeyOf names a typed object. It fails for kinds the Translator does not read.
func KeyOf(o runtime.Object) (Key, error) {
	kind, namespaced := "", true
	switch o.(type) {
	case *corev1.Namespace:
		kind, namespaced = "Namespace", false
	case *corev1.Node:
		kind, namespaced = "Node", false
	case *networkingv1.ServiceCIDR:
		kind, namespaced = "ServiceCIDR", false
	case *corev1.Pod:
		kind = "Pod"
	case *corev1.Service:
		kind = "Service"
	case *corev1.ServiceAccount:
		kind = "ServiceAccount"
	case *discoveryv1.EndpointSlice:
		kind = "EndpointSlice"
	case *v1alpha1.MeshConfig:
		kind, namespaced = "MeshConfig", false
	case *istiosecurity.PeerAuthentication:
		kind = "PeerAuthentication"
	case *istiosecurity.AuthorizationPolicy:
		kind = "AuthorizationPolicy"
	default:
		return Key{}, fmt.Errorf("name object: kind %T is not read", o)
	}
	m, ok := o.(metav1.Object)
	if !ok {
		return Key{}, fmt.Errorf("name object: %T has no metadata", o)
	}
	k := Key{Kind: kind, Name: m.GetName()}
	if namespaced {
		k.Namespace = m.GetNamespace()
	}
	return k, nil
}
