// SPDX-License-Identifier: Apache-2.0

package mesh

import "net/netip"

// Config is what holds for the whole mesh rather than for one object. The zero value is usable. Immutable.
type Config struct {
	// TrustDomain of the mesh; "" means DefaultTrustDomain.
	TrustDomain string
	// RootNamespace holds mesh-wide policy; "" means "warren-system".
	RootNamespace string
	// ClusterCIDRs are the pod and service ranges: an address inside that no object explains is not "outside".
	ClusterCIDRs []netip.Prefix
	// Exceptions are never captured: link-local always, and what the operator named.
	Exceptions []netip.Prefix
}

// DefaultRootNamespace is where mesh-wide policy lives unless the configuration says otherwise.
const DefaultRootNamespace = "warren-system"

// InCluster reports whether a lies in one of the cluster's ranges.
func (c *Config) InCluster(a netip.Addr) bool { return contains(c.ClusterCIDRs, a) }

// Excepted reports whether a is link-local or lies in a configured exception.
func (c *Config) Excepted(a netip.Addr) bool {
	return a.IsLinkLocalUnicast() || contains(c.Exceptions, a)
}

func contains(ps []netip.Prefix, a netip.Addr) bool {
	a = a.Unmap()
	for _, p := range ps {
		if p.Contains(a) {
			return true
		}
	}
	return false
}
