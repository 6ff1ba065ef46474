// SPDX-License-Identifier: Apache-2.0

// Package cluster reaches a mesh from outside, by its Kubernetes API alone: which pods Warren runs as, their pages
// through port forwards, who is enrolled, and whether what an installation needs is there. It reads and forwards; the
// one thing it writes is a namespace's label.
package cluster

import (
	"context"
	"fmt"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/client-go/discovery"
	"k8s.io/client-go/dynamic"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"
)

// Config says which cluster. The zero value is what kubectl would take.
type Config struct {
	// Kubeconfig is a file; "" means $KUBECONFIG, else ~/.kube/config.
	Kubeconfig string
	// Context of it; "" means the current one.
	Context string
	// System is Warren's own namespace; "" means warren-system.
	System string
}

// Cluster is one cluster. Safe for concurrent use.
type Cluster struct {
	system    string
	rest      *rest.Config
	objects   dynamic.Interface
	discovery discovery.DiscoveryInterface
	forwards  forwards
}

// Open reads the configuration. It does not connect.
func Open(cfg Config) (*Cluster, error) {
	rules := clientcmd.NewDefaultClientConfigLoadingRules()
	rules.ExplicitPath = cfg.Kubeconfig
	rc, err := clientcmd.NewNonInteractiveDeferredLoadingClientConfig(rules, &clientcmd.ConfigOverrides{CurrentContext: cfg.Context}).ClientConfig()
	if err != nil {
		return nil, fmt.Errorf("read kubeconfig: %w", err)
	}
	return New(rc, cfg.System)
}

// New is a cluster by a configuration made elsewhere; system is Warren's namespace there, "" for warren-system.
func New(rc *rest.Config, system string) (*Cluster, error) {
	rc = rest.CopyConfig(rc)
	rc.UserAgent, rc.QPS, rc.Burst = "warrenctl", 50, 100
	objects, err := dynamic.NewForConfig(rc)
	if err != nil {
		return nil, fmt.Errorf("connect to the API server: %w", err)
	}
	d, err := discovery.NewDiscoveryClientForConfig(rc)
	if err != nil {
		return nil, fmt.Errorf("connect to the API server: %w", err)
	}
	if system == "" {
		system = "warren-system"
	}
	return &Cluster{system: system, rest: rc, objects: objects, discovery: d}, nil
}

// Close ends all port forwards.
func (c *Cluster) Close() { c.forwards.close() }

var (
	podsResource       = schema.GroupVersionResource{Version: "v1", Resource: "pods"}
	nodesResource      = schema.GroupVersionResource{Version: "v1", Resource: "nodes"}
	namespacesResource = schema.GroupVersionResource{Version: "v1", Resource: "namespaces"}
)

// list reads all objects of a kind; namespace "" means everywhere.
func list[T any](ctx context.Context, c *Cluster, r schema.GroupVersionResource, namespace string, o metav1.ListOptions) ([]T, error) {
	l, err := c.objects.Resource(r).Namespace(namespace).List(ctx, o)
	if err != nil {
		return nil, fmt.Errorf("list %s: %w", r.Resource, err)
	}
	out := make([]T, len(l.Items))
	for i := range l.Items {
		if out[i], err = typed[T](&l.Items[i]); err != nil {
			return nil, err
		}
	}
	return out, nil
}

func get[T any](ctx context.Context, c *Cluster, r schema.GroupVersionResource, namespace, name string) (out T, err error) {
	u, err := c.objects.Resource(r).Namespace(namespace).Get(ctx, name, metav1.GetOptions{})
	if err != nil {
		return out, fmt.Errorf("read %s %s: %w", r.Resource, name, err)
	}
	return typed[T](u)
}

func typed[T any](u *unstructured.Unstructured) (out T, err error) {
	if err = runtime.DefaultUnstructuredConverter.FromUnstructured(u.Object, &out); err != nil {
		err = fmt.Errorf("read %s %s: %w", u.GetKind(), u.GetName(), err)
	}
	return out, err
}
