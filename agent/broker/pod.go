// SPDX-License-Identifier: Apache-2.0

package broker

import (
	"fmt"
	"net/netip"
	"os"
	"slices"
	"time"

	wire "github.com/warren-mesh/warren/mesh/broker"
	"github.com/warren-mesh/warren/mesh/reason"
)

// phase is where a pod stands.
type phase uint8

const (
	waiting  phase = iota // wanted, not captured: tried again
	captured              // new connections are captured
	draining              // un-enrolled; live tunnels go on
)

// pod is one pod the broker knows. The loop owns it.
type pod struct {
	want      wire.Capture
	given     *os.File // namespace handed over by the agent, nil without
	phase     phase
	place     *place // nil until found
	listeners [wire.Kinds]*listener
	saved     savedPod          // of an earlier process, until adopted
	sysctls   map[string]string // values before capture of those that were changed
	state     wire.State
	failure   string    // of the last try to capture it, "" after a success
	failing   time.Time // since when no try succeeded, zero after a success
	nextTry   time.Time
	occupied  bool // a process was seen in the namespace
	missing   int  // looks in a row that found no process in the namespace
	unfixed   int  // looks in a row that found a drift of the pod

	drainUntil time.Time
	drained    map[*ztunnel]bool // which said that nothing is left
}

func (p *pod) key() podKey {
	k := podKey{Cookie: p.place.ns.cookie, Running: p.want.Running}
	for _, a := range p.want.Addresses {
		if a = a.Unmap(); a.Is4() {
			k.IPv4 = a
		} else {
			k.IPv6 = a
		}
	}
	return k
}

// failed notes a try that failed, and when the next one makes sense.
func (p *pod) failed(now time.Time) {
	if p.failing.IsZero() {
		p.failing = now
	}
	p.nextTry = now
	if now.Sub(p.failing) > retryEager {
		p.nextTry = now.Add(retryPause)
	}
}

func (p *pod) fds() (fds [wire.Kinds]int) {
	for k, l := range p.listeners {
		fds[k] = -1
		if l != nil {
			fds[k] = l.fd
		}
	}
	return fds
}

func (p *pod) save() savedPod {
	s := savedPod{Capture: p.want, Sysctls: p.sysctls, DrainUntil: p.drainUntil}
	if p.place == nil {
		s.Cookie, s.Listeners, s.Sysctls = p.saved.Cookie, p.saved.Listeners, p.saved.Sysctls
		return s
	}
	s.Cookie = p.place.ns.cookie
	for k, l := range p.listeners {
		if l != nil {
			s.Listeners[k] = l.cookie
		}
	}
	return s
}

func sameCapture(a, b wire.Capture) bool {
	if len(a.Addresses) != len(b.Addresses) {
		return false
	}
	for i := range a.Addresses {
		if a.Addresses[i] != b.Addresses[i] {
			return false
		}
	}
	return a.UID == b.UID && a.Namespace == b.Namespace && a.Name == b.Name &&
		a.ServiceAccount == b.ServiceAccount && a.Running == b.Running && slices.Equal(a.Except, b.Except)
}

// checkCapture refuses what can't be one. The uid becomes part of paths.
func checkCapture(c wire.Capture) error {
	if c.UID == "" || len(c.UID) > 128 {
		return fmt.Errorf("capture pod %q: no uid, or too long a one", c.UID)
	}
	for _, r := range c.UID {
		if (r < 'a' || r > 'z') && (r < 'A' || r > 'Z') && (r < '0' || r > '9') && r != '-' {
			return fmt.Errorf("capture pod %q: a uid has letters, digits and hyphens", c.UID)
		}
	}
	var v4, v6 netip.Addr
	for _, a := range c.Addresses {
		a = a.Unmap()
		of := &v6
		if a.Is4() {
			of = &v4
		}
		if !a.IsValid() || a.IsUnspecified() || a.IsLoopback() || of.IsValid() {
			return fmt.Errorf("capture pod %q: address %v (one of each family, and the pod's own)", c.UID, a)
		}
		*of = a
	}
	return nil
}

// setState notes and reports what became of a pod. The time is that of the last change.
func (b *Broker) setState(p *pod, s wire.State) {
	s.UID = p.want.UID
	if p.place != nil {
		s.Netns = p.place.ns.inode
	}
	old := p.state
	if old.UID == s.UID && old.Netns == s.Netns && old.Captured == s.Captured && old.Gone == s.Gone && old.Reason == s.Reason {
		return
	}
	s.At = time.Now()
	p.state = s
	b.tellState(s)
}

// kernelUnverified is the state of a pod whose programs are not what they should be.
var kernelUnverified = reason.KernelUnverified.String()
