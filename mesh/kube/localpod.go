// SPDX-License-Identifier: Apache-2.0

package kube

import "net/netip"

// LocalPod is a pod of this agent's node, as far as capture is concerned.
type LocalPod struct {
	UID, Namespace, Name, ServiceAccount string
	// Addresses are empty until the pod has an IP.
	Addresses []netip.Addr
	// Enrolled: the pod should be captured.
	Enrolled bool
	// Reason is the word why it is not enrolled (HostNetwork, OptedOut, ...); "" when it is.
	Reason string
	// Running: the pod already ran when this process first saw it enrolled.
	Running     bool
	HostNetwork bool
	// Except are the pod's own further exceptions.
	Except []netip.Prefix
	// Published is what KeyCaptured says now; the agent corrects it where it is wrong.
	Published string
}
