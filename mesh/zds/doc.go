// SPDX-License-Identifier: Apache-2.0

// Package zds tells ztunnels which pods of the node are theirs, over a SOCK_SEQPACKET unix socket as in
// Istio ambient: one message per packet, each answered before the next. Between Warren's own parts no
// network namespace travels with it; the version in the ztunnel's hello says so.
package zds

import "os"

// MaxPacket is the longest message in bytes.
const MaxPacket = 1024

// Workload is a captured pod.
type Workload struct {
	UID            string // of the pod, in Kubernetes
	Name           string
	Namespace      string
	ServiceAccount string
	// Netns is the pod's network namespace, with peers of Istio's V1 only; nil between Warren's parts.
	// Whoever is handed the Workload closes it.
	Netns *os.File
}
