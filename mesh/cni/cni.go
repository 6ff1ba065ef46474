// SPDX-License-Identifier: Apache-2.0

// Package cni is the vocabulary between Warren's CNI plugin and the agent: one question and one answer over a unix
// socket, and the cache of namespaces that the plugin falls back on while no agent answers.
package cni

import (
	"fmt"
	"net/netip"
	"time"
)

const (
	// Version of the protocol and of the cache. Others are refused.
	Version = 1
	// MaxPacket bounds one question or answer, in bytes.
	MaxPacket = 64 << 10
	// MaxWait bounds how long the agent lets a plugin wait, whatever it asks for.
	MaxWait = time.Minute

	// PluginName is the binary's name, and the type of its entry in a network configuration.
	PluginName = "warren-cni"
	// DefaultRunDir and DefaultStateDir are where sockets and cache are unless the configuration says otherwise.
	DefaultRunDir, DefaultStateDir = "/run/warren", "/var/lib/warren"
	// DefaultDeadline is how long a pod's start may wait for its capture.
	DefaultDeadline = 15 * time.Second
)

// SpecVersions are the versions of the CNI specification that the plugin speaks, oldest first. The first is that of a
// configuration that names none.
func SpecVersions() []string {
	return []string{"0.1.0", "0.2.0", "0.3.0", "0.3.1", "0.4.0", "1.0.0", "1.1.0"}
}

// Op is what the plugin wants.
type Op string

const (
	// Add announces a sandbox whose network was just made; its network namespace travels along.
	Add Op = "add"
	// Del says that a sandbox ends.
	Del Op = "del"
	// Check asks whether a pod is as Add left it.
	Check Op = "check"
)

// Pod names a pod as the runtime does. UID may be empty where the runtime tells none.
type Pod struct {
	Namespace string `json:"namespace"`
	Name      string `json:"name"`
	UID       string `json:"uid,omitempty"`
}

// String returns namespace/name.
func (p Pod) String() string { return p.Namespace + "/" + p.Name }

// Request is the plugin's question.
type Request struct {
	Version   int          `json:"version"`
	Op        Op           `json:"op"`
	Pod       Pod          `json:"pod"`
	Container string       `json:"container"`           // the sandbox's id
	Addresses []netip.Addr `json:"addresses,omitempty"` // at most one of each family
	// WaitMillis is how long the answer may take; 0 is no wait.
	WaitMillis int64 `json:"waitMillis,omitempty"`
}

// Wait is WaitMillis within its bounds.
func (r Request) Wait() time.Duration {
	return min(max(time.Duration(min(r.WaitMillis, MaxWait.Milliseconds()))*time.Millisecond, 0), MaxWait)
}

// Result is the answer in a word.
type Result string

const (
	// Captured: the pod's first connection will be captured.
	Captured Result = "captured"
	// Outside: the pod is not in the mesh; Reply.Reason says why.
	Outside Result = "outside"
	// Failed: the pod must not start; Reply.Error says why.
	Failed Result = "failed"
	// Done answers Del.
	Done Result = "done"
)

// Reply is the agent's answer.
type Reply struct {
	Version int    `json:"version"`
	Result  Result `json:"result"`
	Reason  string `json:"reason,omitempty"`
	Error   string `json:"error,omitempty"`
}

// bounds of what may be asked; generous over what Kubernetes allows.
const (
	maxName      = 253
	maxContainer = 256
	maxUID       = 128
)

// Validate refuses what no runtime says.
func (r Request) Validate() error {
	switch {
	case r.Op != Add && r.Op != Del && r.Op != Check:
		return fmt.Errorf("unknown operation %q", r.Op)
	case !plain(r.Pod.Namespace, maxName) || !plain(r.Pod.Name, maxName):
		return fmt.Errorf("pod %q in namespace %q: no name of a pod", r.Pod.Name, r.Pod.Namespace)
	case r.Pod.UID != "" && !plain(r.Pod.UID, maxUID):
		return fmt.Errorf("pod %s: %q is no uid", r.Pod, r.Pod.UID)
	case len(r.Container) > maxContainer:
		return fmt.Errorf("pod %s: the container's id has %d characters", r.Pod, len(r.Container))
	case len(r.Addresses) > 2 || r.Op == Add && len(r.Addresses) == 0:
		return fmt.Errorf("pod %s: %d addresses (one of each family)", r.Pod, len(r.Addresses))
	case len(r.Addresses) == 2 && r.Addresses[0].Is4() == r.Addresses[1].Is4():
		return fmt.Errorf("pod %s: addresses %v (one of each family)", r.Pod, r.Addresses)
	}
	for _, a := range r.Addresses {
		if !a.IsValid() || a.Is4In6() || a.Zone() != "" || a.IsUnspecified() || a.IsLoopback() || a.IsMulticast() || a.IsLinkLocalUnicast() {
			return fmt.Errorf("pod %s: %v is no address of a pod", r.Pod, a)
		}
	}
	return nil
}

// plain reports whether s consists of what names and uids are made of: it becomes part of paths and messages.
func plain(s string, most int) bool {
	if s == "" || len(s) > most || s[0] == '.' {
		return false
	}
	for _, c := range []byte(s) {
		if (c < 'a' || c > 'z') && (c < 'A' || c > 'Z') && (c < '0' || c > '9') && c != '-' && c != '.' {
			return false
		}
	}
	return true
}
