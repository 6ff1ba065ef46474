// SPDX-License-Identifier: Apache-2.0

package ca

import "github.com/warren-mesh/warren/mesh"

// onNode reports whether a pod of the identity's service account that the mesh captures, or is about to, is
// scheduled on node. A pod outside the mesh gives its node no right to its identity, nor does a host-network
// pod: it has no network namespace of its own to capture. The snapshot has to be one that ignores what nodes report
// (kube.Config.IgnoreCaptured), or a node could call any of its pods captured. control's own identity is no node's
// at all: whoever has it is told every node's token.
func onNode(s *mesh.Snapshot, node string, id mesh.Identity) bool {
	if node == "" || id.IsZero() || id.Namespace == ControlNamespace && id.ServiceAccount == ControlServiceAccount {
		return false
	}
	found := false
	s.Workloads(func(w *mesh.Workload) bool {
		found = w.Node == node && w.PodUID != "" && !w.HostNetwork && w.Capture != mesh.Outside && w.Identity() == id
		return !found
	})
	return found
}
