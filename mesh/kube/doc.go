// SPDX-License-Identifier: Apache-2.0

// Package kube translates Kubernetes objects into the mesh's vocabulary: pure converters, one file per
// kind, and the Translator that keeps what they say consistent with each other. It does no I/O; informers
// and mesh/manifests feed it the same events.
//
// Objects read: Namespace, Pod, Node, Service, ServiceAccount (v1), ServiceCIDR (networking.k8s.io/v1),
// EndpointSlice (discovery.k8s.io/v1), PeerAuthentication and AuthorizationPolicy (security.istio.io/v1). Not applied: Services of
// type ExternalName, EndpointSlices of address type FQDN, ports of protocols other than TCP.
package kube
