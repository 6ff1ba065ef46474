// SPDX-License-Identifier: Apache-2.0

// Package manifests is the mesh's source of objects and publisher of results where there is no API server:
// a watched directory of ordinary Kubernetes YAML, and files below its status/ in place of annotations and
// conditions. Objects go through the same converters as those of an API server (mesh/kube).
//
// What a cluster's controllers would add is added here: a Service with a selector and no EndpointSlice gets
// the slices the endpointslice controller would write. What they would allocate (uids, cluster IPs) has to
// be written. Kinds Warren does not read are passed over, so an application's whole YAML may lie here.
package manifests
