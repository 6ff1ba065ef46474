// SPDX-License-Identifier: Apache-2.0

package kube

import (
	"net/netip"
	"time"

	"github.com/warren-mesh/warren/mesh"
)

// Config says how objects are read. The zero value is usable.
type Config struct {
	// Node is this agent's node: LocalPods are its pods. "" (control) means there are none.
	Node string
	// Cluster names the cluster in workload uids; default "Kubernetes", as in ambient.
	Cluster string
	// TrustDomain of every identity; default mesh.DefaultTrustDomain.
	TrustDomain string
	// RootNamespace holds mesh-wide policy; default mesh.DefaultRootNamespace.
	RootNamespace string
	// ClusterDomain ends service host names; default "cluster.local".
	ClusterDomain string
	// ExcludedNamespaces are never captured. nil means kube-system and the root namespace; an empty,
	// non-nil slice excludes none.
	ExcludedNamespaces []string
	// ClusterCIDRs are pod and service ranges beside those that Nodes and ServiceCIDRs name.
	ClusterCIDRs []netip.Prefix
	// Exceptions are never captured, mesh-wide.
	Exceptions []netip.Prefix
	// ImplicitNamespaces: a pod's namespace need not exist as an object (a directory of YAML). Otherwise a
	// pod without one is held as Pending, because nobody can say yet whether it is enrolled.
	ImplicitNamespaces bool
	// IgnoreCaptured leaves out what nodes report of their pods, so that the objects alone say who is in the
	// mesh: what a node may have must not follow from its own word (control).
	IgnoreCaptured bool
	// Now is the clock; default time.Now.
	Now func() time.Time
}

func (c Config) withDefaults() Config {
	def := func(s *string, v string) {
		if *s == "" {
			*s = v
		}
	}
	def(&c.Cluster, "Kubernetes")
	def(&c.TrustDomain, mesh.DefaultTrustDomain)
	def(&c.RootNamespace, mesh.DefaultRootNamespace)
	def(&c.ClusterDomain, "cluster.local")
	if c.ExcludedNamespaces == nil {
		c.ExcludedNamespaces = []string{"kube-system", c.RootNamespace}
	}
	if c.Now == nil {
		c.Now = time.Now
	}
	return c
}
