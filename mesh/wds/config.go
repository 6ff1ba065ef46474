// SPDX-License-Identifier: Apache-2.0

package wds

import (
	"fmt"
	"net/netip"

	"github.com/warren-mesh/warren/mesh"
	"github.com/warren-mesh/warren/mesh/wds/warrenpb"
)

// FromConfig returns the message for c.
func FromConfig(c *mesh.Config) *warrenpb.Config {
	return &warrenpb.Config{
		TrustDomain: c.TrustDomain, RootNamespace: c.RootNamespace,
		ClusterCidrs: convert(c.ClusterCIDRs, netip.Prefix.String),
		Exceptions:   convert(c.Exceptions, netip.Prefix.String),
	}
}

// ToConfig returns the configuration a message stands for.
func ToConfig(m *warrenpb.Config) (*mesh.Config, error) {
	c := &mesh.Config{TrustDomain: m.GetTrustDomain(), RootNamespace: m.GetRootNamespace()}
	if err := read(&c.ClusterCIDRs, m.GetClusterCidrs(), netip.ParsePrefix); err != nil {
		return nil, fmt.Errorf("cluster_cidrs: %w", err)
	}
	if err := read(&c.Exceptions, m.GetExceptions(), netip.ParsePrefix); err != nil {
		return nil, fmt.Errorf("exceptions: %w", err)
	}
	return c, nil
}
