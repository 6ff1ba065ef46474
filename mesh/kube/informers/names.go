// SPDX-License-Identifier: Apache-2.0

package informers

import (
	"strings"

	istiosecurity "istio.io/client-go/pkg/apis/security/v1"
	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	networkingv1 "k8s.io/api/networking/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"

	"github.com/warren-mesh/warren/api/v1alpha1"
	"github.com/warren-mesh/warren/mesh/kube"
)

func split(key string) (namespace, name string) {
	if ns, name, ok := strings.Cut(key, "/"); ok {
		return ns, name
	}
	return "", key
}

// named returns an object of the kind with nothing but its name, to tell of its end.
func named(kind, key string) runtime.Object {
	ns, name := split(key)
	m := metav1.ObjectMeta{Namespace: ns, Name: name}
	switch kind {
	case "Namespace":
		return &corev1.Namespace{ObjectMeta: m}
	case "Node":
		return &corev1.Node{ObjectMeta: m}
	case "ServiceCIDR":
		return &networkingv1.ServiceCIDR{ObjectMeta: m}
	case "Service":
		return &corev1.Service{ObjectMeta: m}
	case "Pod":
		return &corev1.Pod{ObjectMeta: m}
	case "EndpointSlice":
		return &discoveryv1.EndpointSlice{ObjectMeta: m}
	case "MeshConfig":
		return &v1alpha1.MeshConfig{ObjectMeta: m}
	case "PeerAuthentication":
		return &istiosecurity.PeerAuthentication{ObjectMeta: m}
	case "AuthorizationPolicy":
		return &istiosecurity.AuthorizationPolicy{ObjectMeta: m}
	}
	panic("informers: kind " + kind + " has no type") // the table of kinds is closed; a test walks it
}

// remnant is what can be told of an object that can't be read.
func remnant(kind, key string, data []byte) (kube.Event, bool) {
	ns, name := split(key)
	o := kube.Remnant(kube.Key{Kind: kind, Namespace: ns, Name: name}, data)
	return kube.Event{Object: o, Refused: true}, o != nil
}

func problemsOf(kind, key string, errs []error) []kube.Problem {
	ns, name := split(key)
	object := kube.Key{Kind: kind, Namespace: ns, Name: name}.String()
	var out []kube.Problem
	for _, err := range errs {
		out = append(out, kube.Problem{Object: object, Field: fieldOf(err), Err: err})
	}
	return out
}
