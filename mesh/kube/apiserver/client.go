// SPDX-License-Identifier: Apache-2.0

// Package apiserver is a connection to the Kubernetes API: where it is, who we are there, and clients for the
// few groups Warren speaks with. All clients of one Client share its HTTP/2 connection.
package apiserver

import (
	"errors"
	"fmt"
	"log/slog"
	"net/http"

	authenticationv1 "k8s.io/api/authentication/v1"
	coordinationv1 "k8s.io/api/coordination/v1"
	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	networkingv1 "k8s.io/api/networking/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/runtime/serializer"
	"k8s.io/client-go/dynamic"
	"k8s.io/client-go/metadata"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"
	"k8s.io/klog/v2"
)

const (
	protobuf = "application/vnd.kubernetes.protobuf"
	// perSecond and burst bound what one process asks of the server beside its watches. Enrolling a namespace
	// writes twice per pod; the server's own priority and fairness does the rest.
	perSecond = 50
	burst     = 200
)

// Config says where the API server is.
type Config struct {
	// Kubeconfig is a file; "" means the service account of the pod we run in.
	Kubeconfig string
	// UserAgent names us in the server's audit log.
	UserAgent string
	// Log receives client-go's own lines as well; nil discards them.
	Log *slog.Logger
}

// Client makes the clients of one API server. Safe for concurrent use.
type Client struct {
	rest *rest.Config
	http *http.Client
}

// Open reads the configuration. It does not connect: a server that is away is no error here.
func Open(cfg Config) (*Client, error) {
	if cfg.Log != nil {
		klog.SetSlogLogger(cfg.Log.With("part", "client-go"))
	}
	rc, err := load(cfg.Kubeconfig)
	if err != nil {
		return nil, err
	}
	if rc.UserAgent = cfg.UserAgent; rc.UserAgent == "" {
		rc.UserAgent = "warren"
	}
	rc.QPS, rc.Burst = perSecond, burst
	return New(rc)
}

// New returns a client over a configuration made elsewhere.
func New(rc *rest.Config) (*Client, error) {
	h, err := rest.HTTPClientFor(rc)
	if err != nil {
		return nil, fmt.Errorf("connect to the API server: %w", err)
	}
	return &Client{rest: rc, http: h}, nil
}

func load(kubeconfig string) (*rest.Config, error) {
	if kubeconfig == "" {
		rc, err := rest.InClusterConfig()
		if errors.Is(err, rest.ErrNotInCluster) {
			return nil, errors.New("find the API server: not in a pod (set --kubeconfig, or --manifests to run without Kubernetes)")
		}
		if err != nil {
			return nil, fmt.Errorf("find the API server: %w (is the service account's token mounted?)", err)
		}
		return rc, nil
	}
	rc, err := clientcmd.BuildConfigFromFlags("", kubeconfig)
	if err != nil {
		return nil, fmt.Errorf("read --kubeconfig %s: %w", kubeconfig, err)
	}
	return rc, nil
}

// Scheme knows the built-in types Warren speaks of.
var Scheme = func() *runtime.Scheme {
	s := runtime.NewScheme()
	for _, add := range []func(*runtime.Scheme) error{
		corev1.AddToScheme, discoveryv1.AddToScheme, networkingv1.AddToScheme,
		authenticationv1.AddToScheme, coordinationv1.AddToScheme,
	} {
		if err := add(s); err != nil {
			panic(err) // two types under one name: seen by every test
		}
	}
	metav1.AddToGroupVersion(s, schema.GroupVersion{Version: "v1"})
	return s
}()

// Codecs of Scheme.
var Codecs = serializer.NewCodecFactory(Scheme)

// Group returns a client of one built-in group and version, in protobuf.
func (c *Client) Group(gv schema.GroupVersion) (rest.Interface, error) {
	rc := rest.CopyConfig(c.rest)
	rc.GroupVersion, rc.APIPath = &gv, "/apis"
	if gv.Group == "" {
		rc.APIPath = "/api"
	}
	rc.NegotiatedSerializer = Codecs.WithoutConversion()
	rc.ContentType, rc.AcceptContentTypes = protobuf, protobuf+",application/json"
	r, err := rest.RESTClientForConfigAndClient(rc, c.http)
	if err != nil {
		return nil, fmt.Errorf("client of %s: %w", gv, err)
	}
	return r, nil
}

// Metadata returns a client that is sent objects' metadata only.
func (c *Client) Metadata() (metadata.Interface, error) {
	return metadata.NewForConfigAndClient(metadata.ConfigFor(c.rest), c.http)
}

// Dynamic returns a client of types that are no Go types here: those of CustomResourceDefinitions.
func (c *Client) Dynamic() (dynamic.Interface, error) {
	return dynamic.NewForConfigAndClient(dynamic.ConfigFor(c.rest), c.http)
}

// Rest returns a copy of the configuration and the shared HTTP client, for clients of client-go's own making.
func (c *Client) Rest() (*rest.Config, *http.Client) { return rest.CopyConfig(c.rest), c.http }
