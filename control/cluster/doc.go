// SPDX-License-Identifier: Apache-2.0

// Package cluster is what control has on a Kubernetes cluster in place of directories: the authority's files in a
// Secret, the root bundle in ConfigMaps, nodes proved by their service account tokens, and an election among the
// replicas of who writes. Every replica signs, always; a lost lease stops the writers and nothing else.
package cluster
