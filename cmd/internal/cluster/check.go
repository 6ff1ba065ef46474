// SPDX-License-Identifier: Apache-2.0

package cluster

import (
	"context"
	"slices"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// State of a Finding.
type State string

const (
	Good State = "ok"
	// Warning: it works, but not as one may think.
	Warning State = "warning"
	Bad     State = "failed"
	// Unknown: the API server did not let it be seen.
	Unknown State = "unknown"
)

// Finding is one thing that was looked at.
type Finding struct {
	Check  string `json:"check"`
	State  State  `json:"state"`
	Detail string `json:"detail,omitempty"`
}

// Check looks at what the API server knows of the installation.
func (c *Cluster) Check(ctx context.Context) (out []Finding) {
	for _, look := range []func(context.Context) []Finding{c.server, c.kinds, c.rights, c.admission, c.workloads, c.kernels, c.pods} {
		out = append(out, look(ctx)...)
	}
	return out
}

func failed(check string, err error) Finding {
	if apierrors.IsForbidden(err) || apierrors.IsUnauthorized(err) {
		return Finding{check, Unknown, err.Error()}
	}
	return Finding{check, Bad, err.Error()}
}

func (c *Cluster) server(context.Context) []Finding {
	v, err := c.discovery.ServerVersion()
	if err != nil {
		return []Finding{failed("API server", err)}
	}
	return []Finding{{"API server", Good, v.GitVersion}}
}

// kinds are the custom resources that are read, and what is missed without them.
func (c *Cluster) kinds(context.Context) (out []Finding) {
	for _, k := range []struct {
		version, resource string
		without           State
		text              string
	}{
		{"warren.dev/v1alpha1", "meshconfigs", Bad, "the chart brings it"},
		{"security.istio.io/v1", "authorizationpolicies", Warning, "nobody can say who may connect (the definition comes with Istio's CRDs)"},
		{"security.istio.io/v1", "peerauthentications", Warning, "nobody can demand mutual TLS by namespace (the definition comes with Istio's CRDs)"},
	} {
		check := "kind " + k.resource + "." + k.version
		switch l, err := c.discovery.ServerResourcesForGroupVersion(k.version); {
		case apierrors.IsNotFound(err) || err == nil && !slices.ContainsFunc(l.APIResources, func(r metav1.APIResource) bool { return r.Name == k.resource }):
			out = append(out, Finding{check, k.without, "the server does not have it: " + k.text})
		case err != nil:
			out = append(out, failed(check, err))
		default:
			out = append(out, Finding{Check: check, State: Good})
		}
	}
	return out
}
