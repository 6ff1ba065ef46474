// SPDX-License-Identifier: Apache-2.0

// Package escape is what somebody in a pod may try to get around the mesh: ways to connect, and packets that no connect
// sees. Tests try all of it, in network namespaces and in pods of a cluster.
package escape
