// SPDX-License-Identifier: Apache-2.0

package broker

import (
	"net/netip"

	wire "github.com/warren-mesh/warren/mesh/broker"
)

// podKey is what the kernel programs know of a pod.
type podKey struct {
	Cookie  uint64 // of the network namespace
	IPv4    netip.Addr
	IPv6    netip.Addr
	Running bool
}

// datapath is the broker's view of the kernel programs.
type datapath interface {
	// AttachPod steers nothing yet; it is idempotent and updates in place.
	AttachPod(p podKey, netns int, listeners [wire.Kinds]int) error
	// SetListener replaces one listener.
	SetListener(cookie uint64, kind wire.Kind, fd int) error
	// Enable starts the capture of new connections, but for those to what it excepts.
	Enable(p podKey, except []netip.Prefix) error
	// AttachGuard is called on a thread in the host's network namespace.
	AttachGuard(cookie uint64, hostIfindex int) error
	// Disable ends the capture of new connections, at once; KeepHBONE does so for all but port 15008. The guard
	// drops nothing after either.
	Disable(cookie uint64) error
	KeepHBONE(cookie uint64) error
	// DetachPod leaves no trace of the pod; a missing one is no error.
	DetachPod(cookie uint64) error
	// Pods lists what is attached, also by an earlier process.
	Pods() ([]uint64, error)
	// Exempt marks a socket as the broker's own.
	Exempt(fd int) error
	SetExceptions([]netip.Prefix) error
	Reasons() (map[string]uint64, error)
	// Verify compares what is attached with the pods wanted. Repair puts one drift right, on a thread in the
	// host's namespace; it fails where the pod must be attached anew.
	Verify(want []uint64) []drift
	Repair(drift) error
	// Close leaves everything attached.
	Close() error
}

// drift is one difference between what is attached and what should be.
type drift struct {
	cookie uint64 // 0: not of one pod
	text   string
	raw    any
}
