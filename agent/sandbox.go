// SPDX-License-Identifier: Apache-2.0

package agent

import (
	"net/netip"
	"os"
	"slices"
	"strings"
)

// sandbox is what the CNI plugin said of a pod before its object did.
type sandbox struct {
	Container string       `json:"container"`
	Addresses []netip.Addr `json:"addresses"`
	Before    []netip.Addr `json:"before,omitempty"` // the object's then: of a sandbox before, or none
	Boot      string       `json:"boot,omitempty"`   // the run of the kernel that it was in
}

// addresses are the pod's: the object's own, except while it still says what it said before the sandbox was made. The
// order is the sandbox's where both say the same, so that the object's word changes no capture.
func (t *tracked) addresses() []netip.Addr {
	s := t.sandbox
	if s != nil && (sameAddresses(t.pod.Addresses, s.Before) || sameAddresses(t.pod.Addresses, s.Addresses)) {
		return s.Addresses
	}
	return t.pod.Addresses
}

func sameAddresses(a, b []netip.Addr) bool {
	return len(a) == len(b) && !slices.ContainsFunc(a, func(x netip.Addr) bool { return !slices.Contains(b, x) })
}

// sandboxes are kept in files, one for each pod, until its object has the addresses: an agent started in between would
// tell the broker of no such pod, and so end its capture.
type sandboxes = podFiles[sandbox, *sandbox]

func (s *sandbox) run() *string { return &s.Boot }

// bootID names this run of the kernel, "" where it can't be read.
func bootID() string {
	b, _ := os.ReadFile("/proc/sys/kernel/random/boot_id")
	return strings.TrimSpace(string(b))
}
