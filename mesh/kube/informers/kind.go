// SPDX-License-Identifier: Apache-2.0

package informers

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"

	istiosecurity "istio.io/client-go/pkg/apis/security/v1"
	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	networkingv1 "k8s.io/api/networking/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/watch"
	"k8s.io/client-go/tools/cache"

	"github.com/warren-mesh/warren/api/v1alpha1"
	"github.com/warren-mesh/warren/mesh/kube"
	"github.com/warren-mesh/warren/mesh/kube/apiserver"
)

// kind is one of the resources that are watched.
type kind struct {
	name     string // as kube.Key has it
	resource schema.GroupVersionResource
	// optional: a server that does not have the kind says as much as one that has no object of it.
	optional bool
	// conditions: objects of the kind have status.conditions.
	conditions bool
	// conditionPrefix begins the types of those that are ours.
	conditionPrefix string
	// watch makes the lister and watcher; wire is an example of what comes over it.
	watch func(*apiserver.Client, schema.GroupVersionResource) (cache.ListerWatcher, error)
	wire  runtime.Object
	// trim turns an object off the wire into what is kept; once trimmed it stays as it is.
	trim func(runtime.Object) (runtime.Object, error)
	// encode is deterministic; decode undoes it and returns the type the Translator reads.
	encode func(runtime.Object) ([]byte, error)
	decode func([]byte) (runtime.Object, []error)
}

var kinds = []kind{
	builtin("Namespace", corev1.SchemeGroupVersion.WithResource("namespaces"), &corev1.Namespace{}).metadataOnly(),
	builtin("Node", corev1.SchemeGroupVersion.WithResource("nodes"), &corev1.Node{}),
	builtin("ServiceCIDR", networkingv1.SchemeGroupVersion.WithResource("servicecidrs"), &networkingv1.ServiceCIDR{}).mayBeMissing(),
	builtin("Service", corev1.SchemeGroupVersion.WithResource("services"), &corev1.Service{}),
	builtin("Pod", corev1.SchemeGroupVersion.WithResource("pods"), &corev1.Pod{}),
	builtin("EndpointSlice", discoveryv1.SchemeGroupVersion.WithResource("endpointslices"), &discoveryv1.EndpointSlice{}),
	custom("MeshConfig", v1alpha1.GroupVersion.WithResource("meshconfigs"), "", func() runtime.Object { return &v1alpha1.MeshConfig{} }),
	custom("PeerAuthentication", istiosecurity.SchemeGroupVersion.WithResource("peerauthentications"), foreign, func() runtime.Object { return &istiosecurity.PeerAuthentication{} }),
	custom("AuthorizationPolicy", istiosecurity.SchemeGroupVersion.WithResource("authorizationpolicies"), foreign, func() runtime.Object { return &istiosecurity.AuthorizationPolicy{} }),
}

// message is what the built-in types can do.
type message interface {
	runtime.Object
	Marshal() ([]byte, error)
	Unmarshal([]byte) error
}

// builtin is a kind of the server's own, in protobuf.
func builtin[T message](name string, r schema.GroupVersionResource, example T) kind {
	return kind{
		name: name, resource: r, wire: example,
		watch: func(c *apiserver.Client, r schema.GroupVersionResource) (cache.ListerWatcher, error) {
			g, err := c.Group(r.GroupVersion())
			if err != nil {
				return nil, err
			}
			return cache.NewListWatchFromClient(g, r.Resource, metav1.NamespaceAll, fields.Everything()), nil
		},
		trim:   func(o runtime.Object) (runtime.Object, error) { return kube.Trim(o), nil },
		encode: func(o runtime.Object) ([]byte, error) { return o.(message).Marshal() },
		decode: func(b []byte) (runtime.Object, []error) {
			o := example.DeepCopyObject().(message)
			if err := o.Unmarshal(b); err != nil {
				return nil, []error{err}
			}
			return o, nil
		},
	}
}

func (k kind) mayBeMissing() kind {
	k.optional = true
	return k
}

// metadataOnly has the server send names, labels and annotations only. The kind's example is a Namespace.
func (k kind) metadataOnly() kind {
	k.wire = &metav1.PartialObjectMetadata{}
	k.watch = func(c *apiserver.Client, r schema.GroupVersionResource) (cache.ListerWatcher, error) {
		m, err := c.Metadata()
		if err != nil {
			return nil, err
		}
		res := m.Resource(r)
		return &cache.ListWatch{
			ListWithContextFunc: func(ctx context.Context, o metav1.ListOptions) (runtime.Object, error) { return res.List(ctx, o) },
			WatchFuncWithContext: func(ctx context.Context, o metav1.ListOptions) (watch.Interface, error) {
				return res.Watch(ctx, o)
			},
		}, nil
	}
	k.trim = func(o runtime.Object) (runtime.Object, error) {
		if p, ok := o.(*metav1.PartialObjectMetadata); ok {
			return kube.Trim(&corev1.Namespace{ObjectMeta: p.ObjectMeta}), nil
		}
		return o, nil
	}
	return k
}

// custom is a kind that a CustomResourceDefinition defines, in JSON. Objects are kept as they were written, so that one
// this version can't read is one problem and not the end of its kind's watch.
func custom(name string, resource schema.GroupVersionResource, prefix string, empty func() runtime.Object) kind {
	return kind{
		name: name, resource: resource,
		wire:       &unstructured.Unstructured{},
		optional:   true,
		conditions: true, conditionPrefix: prefix,
		watch: func(c *apiserver.Client, r schema.GroupVersionResource) (cache.ListerWatcher, error) {
			d, err := c.Dynamic()
			if err != nil {
				return nil, err
			}
			res := d.Resource(r)
			return &cache.ListWatch{
				ListWithContextFunc: func(ctx context.Context, o metav1.ListOptions) (runtime.Object, error) { return res.List(ctx, o) },
				WatchFuncWithContext: func(ctx context.Context, o metav1.ListOptions) (watch.Interface, error) {
					return res.Watch(ctx, o)
				},
			}, nil
		},
		trim:   func(o runtime.Object) (runtime.Object, error) { return trimCustom(o, prefix) },
		encode: func(o runtime.Object) ([]byte, error) { return json.Marshal(o.(*unstructured.Unstructured).Object) },
		decode: func(b []byte) (runtime.Object, []error) { return decodeCustom(b, empty()) },
	}
}

// foreign begins the types of our conditions in the status of others' kinds.
const foreign = "warren.dev/"

// trimCustom keeps what is read: name, uid, age, generation, the dry-run annotation, the spec, and our own conditions.
func trimCustom(o runtime.Object, prefix string) (runtime.Object, error) {
	u, ok := o.(*unstructured.Unstructured)
	if !ok {
		return nil, fmt.Errorf("trim object: %T is of no custom kind", o)
	}
	meta := map[string]any{"name": u.GetName()}
	if uid := u.GetUID(); uid != "" {
		meta["uid"] = string(uid)
	}
	if ns := u.GetNamespace(); ns != "" {
		meta["namespace"] = ns
	}
	if g := u.GetGeneration(); g != 0 && prefix == "" {
		meta["generation"] = g
	}
	if t, ok, _ := unstructured.NestedString(u.Object, "metadata", "creationTimestamp"); ok {
		meta["creationTimestamp"] = t
	}
	if v, ok := u.GetAnnotations()[kube.KeyDryRun]; ok {
		meta["annotations"] = map[string]any{kube.KeyDryRun: v}
	}
	out := map[string]any{"metadata": meta}
	if spec, ok := u.Object["spec"]; ok {
		out["spec"] = spec
	}
	conditions, _, _ := unstructured.NestedSlice(u.Object, "status", "conditions")
	var ours []any
	for _, c := range conditions {
		m, ok := c.(map[string]any)
		if !ok || m["type"] != prefix+kube.ConditionAccepted && m["type"] != prefix+kube.ConditionApplied {
			continue
		}
		kept := map[string]any{"type": m["type"], "status": m["status"], "reason": m["reason"], "message": m["message"]}
		if g, ok := m["observedGeneration"]; ok {
			kept["observedGeneration"] = g
		}
		ours = append(ours, kept)
	}
	if len(ours) > 0 {
		out["status"] = map[string]any{"conditions": ours}
	}
	return &unstructured.Unstructured{Object: out}, nil
}

// decodeCustom reads a kept object into o. A panic of a type's own reader is an error.
func decodeCustom(b []byte, o runtime.Object) (_ runtime.Object, errs []error) {
	defer func() {
		if r := recover(); r != nil {
			errs = []error{fmt.Errorf("read object: panic: %v", r)}
		}
	}()
	if errs := kube.StrictSpec(b, o); len(errs) > 0 {
		return nil, errs
	}
	if err := json.Unmarshal(b, o); err != nil {
		return nil, []error{fmt.Errorf("read object: %w", err)}
	}
	return o, nil
}

func fieldOf(err error) string {
	var fe *kube.FieldError
	if errors.As(err, &fe) {
		return fe.Field
	}
	return ""
}
