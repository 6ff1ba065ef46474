// SPDX-License-Identifier: Apache-2.0

// Package mesh is Warren's vocabulary: workloads, services, policies, identities, and the immutable
// Snapshot every decision is taken from. It imports the standard library and one persistent-map library;
// whatever talks to Kubernetes, gRPC or the kernel lives elsewhere and translates at its edge.
//
// Values handed out by a Snapshot are shared and must not be modified.
package mesh
