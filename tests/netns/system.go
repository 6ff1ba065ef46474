// SPDX-License-Identifier: Apache-2.0

package netns

// systemNamespace is Warren's own, and the root namespace of mesh-wide policy.
const systemNamespace = "warren-system"

// system is Warren on one node.
type system struct {
	node, ztunnel *Pod
}
