// SPDX-License-Identifier: Apache-2.0

// Package wds carries a mesh.Store from one process to another as Istio ambient's workload API: pure
// conversion between mesh values and the messages, a delta-ADS server that serves a store, and a client that
// fills one. What the messages have no field for travels in their extensions, so that either end may be
// somebody else's.
package wds

// Type URLs of the resources. Config is Warren's own; a server that is not Warren's has none.
const (
	TypeAddress       = "type.googleapis.com/istio.workload.Address"
	TypeAuthorization = "type.googleapis.com/istio.security.Authorization"
	TypeConfig        = "type.googleapis.com/warren.v1alpha1.Config"
)

// ConfigName is the name of the one resource of TypeConfig.
const ConfigName = "mesh"

// DefaultClusterDomain ends the host names of services unless the server is told otherwise.
const DefaultClusterDomain = "cluster.local"

// extensionName is the name our extensions travel under; readers go by the payload's type.
const extensionName = "warren.dev"
