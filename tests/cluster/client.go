// SPDX-License-Identifier: Apache-2.0

package cluster

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"path/filepath"
	"strings"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"
	utilyaml "k8s.io/apimachinery/pkg/util/yaml"
	"k8s.io/client-go/dynamic"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/kubernetes/scheme"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"
	"k8s.io/client-go/tools/remotecommand"
	"sigs.k8s.io/yaml"
)

// API is an API server, a cluster's of this package or any other. Safe for concurrent use.
type API struct {
	config  *rest.Config
	client  kubernetes.Interface
	dynamic dynamic.Interface
	mapper  *mapper
}

// Connect makes the clients of an API server from a kubeconfig file, or from several as the variable KUBECONFIG lists them; it
// asks nothing yet.
func Connect(kubeconfig string) (*API, error) {
	rules := clientcmd.ClientConfigLoadingRules{Precedence: filepath.SplitList(kubeconfig)}
	loaded, err := rules.Load()
	if err != nil {
		return nil, fmt.Errorf("read kubeconfig: %w", err)
	}
	config, err := clientcmd.NewDefaultClientConfig(*loaded, &clientcmd.ConfigOverrides{}).ClientConfig()
	if err != nil {
		return nil, fmt.Errorf("read kubeconfig %s: %w", kubeconfig, err)
	}
	config.QPS = -1 // tests are in a hurry
	c := &API{config: config}
	if c.client, err = kubernetes.NewForConfig(config); err != nil {
		return nil, fmt.Errorf("make client: %w", err)
	}
	if c.dynamic, err = dynamic.NewForConfig(config); err != nil {
		return nil, fmt.Errorf("make client: %w", err)
	}
	c.mapper = &mapper{discovery: c.client.Discovery()}
	return c, nil
}

func (c *Cluster) connect() (err error) {
	c.API, err = Connect(c.Kubeconfig())
	return err
}

// Kubeconfig is the path of the admin's kubeconfig, which works in this machine's network namespace.
func (c *Cluster) Kubeconfig() string { return c.pki("admin.kubeconfig") }

// Config is the client configuration, without rate limit.
func (c *API) Config() *rest.Config { return rest.CopyConfig(c.config) }

// Client is the typed client.
func (c *API) Client() kubernetes.Interface { return c.client }

// Dynamic is the untyped client.
func (c *API) Dynamic() dynamic.Interface { return c.dynamic }

// Nodes are the names of the cluster's nodes.
func (c *Cluster) Nodes() []string {
	names := make([]string, len(c.nodes))
	for i, n := range c.nodes {
		names[i] = n.Name
	}
	return names
}

// Apply applies every document of a YAML stream by server-side apply, in order. Objects without a namespace go to "default".
func (c *API) Apply(ctx context.Context, manifest string) error {
	return c.each(manifest, func(r dynamic.ResourceInterface, o *unstructured.Unstructured) error {
		_, err := r.Apply(ctx, o.GetName(), o, metav1.ApplyOptions{FieldManager: "warren-testcluster", Force: true})
		if err != nil {
			return fmt.Errorf("apply %s %s: %w", o.GetKind(), o.GetName(), err)
		}
		return nil
	})
}

// Delete deletes every object of a YAML stream, with what hangs on it; those that aren't there are no error. It
// doesn't wait for the end: see Wait and Gone.
func (c *API) Delete(ctx context.Context, manifest string) error {
	return c.each(manifest, func(r dynamic.ResourceInterface, o *unstructured.Unstructured) error {
		background := metav1.DeletePropagationBackground
		err := r.Delete(ctx, o.GetName(), metav1.DeleteOptions{PropagationPolicy: &background})
		if err != nil && !apierrors.IsNotFound(err) {
			return fmt.Errorf("delete %s %s: %w", o.GetKind(), o.GetName(), err)
		}
		return nil
	})
}

func (c *API) each(manifest string, do func(dynamic.ResourceInterface, *unstructured.Unstructured) error) error {
	objects, err := decode(manifest)
	if err != nil {
		return err
	}
	for _, o := range objects {
		kind := o.GroupVersionKind()
		m, err := c.mapper.mapping(kind)
		if err != nil {
			return fmt.Errorf("find resource of %s %s: %w", o.GetKind(), o.GetName(), err)
		}
		var r dynamic.ResourceInterface = c.dynamic.Resource(m.Resource)
		if m.Scope.Name() == meta.RESTScopeNameNamespace {
			ns := o.GetNamespace()
			if ns == "" {
				ns = metav1.NamespaceDefault
			}
			r = c.dynamic.Resource(m.Resource).Namespace(ns)
		}
		if err := do(r, o); err != nil {
			return err
		}
	}
	return nil
}

func decode(manifest string) ([]*unstructured.Unstructured, error) {
	var all []*unstructured.Unstructured
	docs := utilyaml.NewYAMLReader(bufio.NewReader(strings.NewReader(manifest)))
	for {
		doc, err := docs.Read()
		if errors.Is(err, io.EOF) {
			return all, nil
		}
		if err != nil {
			return nil, fmt.Errorf("read manifest: %w", err)
		}
		o := &unstructured.Unstructured{}
		if err := yaml.Unmarshal(doc, &o.Object); err != nil {
			return nil, fmt.Errorf("read manifest: %w", err)
		}
		if len(o.Object) > 0 {
			all = append(all, o)
		}
	}
}

// resource finds what "deployments/web" or "pods/x" names; "RESOURCE.GROUP/NAME" is understood, too.
func (c *API) resource(namespace, what string) (dynamic.ResourceInterface, string, error) {
	kind, name, ok := strings.Cut(what, "/")
	if !ok {
		return nil, "", fmt.Errorf("find %q: want RESOURCE/NAME", what)
	}
	g := schema.ParseGroupResource(kind)
	full, err := c.mapper.resource(g)
	if err != nil {
		return nil, "", fmt.Errorf("find resource %s: %w", kind, err)
	}
	if namespace == "" {
		return c.dynamic.Resource(full), name, nil
	}
	return c.dynamic.Resource(full).Namespace(namespace), name, nil
}

// Exec runs a command in a pod's container (empty: its first) and returns what it printed.
func (c *API) Exec(ctx context.Context, namespace, pod, container string, command ...string) (stdout, stderr string, err error) {
	var o, e bytes.Buffer
	err = c.ExecStream(ctx, namespace, pod, container, remotecommand.StreamOptions{Stdout: &o, Stderr: &e}, command...)
	return o.String(), e.String(), err
}

// ExecStream runs a command in a pod with the given streams. The error of one that failed has its ExitStatus.
func (c *API) ExecStream(ctx context.Context, namespace, pod, container string, s remotecommand.StreamOptions, command ...string) error {
	r := c.client.CoreV1().RESTClient().Post().Namespace(namespace).Resource("pods").Name(pod).SubResource("exec").
		VersionedParams(&corev1.PodExecOptions{Container: container, Command: command,
			Stdin: s.Stdin != nil, Stdout: s.Stdout != nil, Stderr: s.Stderr != nil, TTY: s.Tty}, scheme.ParameterCodec)
	x, err := remotecommand.NewWebSocketExecutor(c.config, "GET", r.URL().String())
	if err != nil {
		return fmt.Errorf("exec in %s/%s: %w", namespace, pod, err)
	}
	if err := x.StreamWithContext(ctx, s); err != nil {
		return fmt.Errorf("exec %s in %s/%s: %w", command[0], namespace, pod, err)
	}
	return nil
}

// Logs returns what a pod's container (empty: its first) printed since it started.
func (c *API) Logs(ctx context.Context, namespace, pod, container string) (string, error) {
	b, err := c.client.CoreV1().Pods(namespace).GetLogs(pod, &corev1.PodLogOptions{Container: container}).DoRaw(ctx)
	if err != nil {
		return "", fmt.Errorf("read logs of %s/%s: %w", namespace, pod, err)
	}
	return string(b), nil
}
