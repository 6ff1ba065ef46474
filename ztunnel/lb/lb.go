// SPDX-License-Identifier: Apache-2.0

// Package lb chooses one endpoint of a service. It is pure: the caller brings the candidates and the dice.
package lb

import (
	"math/rand/v2"
	"net/netip"

	"github.com/warren-mesh/warren/mesh"
)

// Endpoint is one workload that serves a service's port.
type Endpoint struct {
	Workload *mesh.Workload
	// Target is the endpoint's own address and port.
	Target netip.AddrPort
}

// Candidates are a service's endpoints for one port, by whether a connection may go there now.
type Candidates struct {
	// Usable may be chosen: captured, or plaintext by the rules.
	Usable []Endpoint
	// Pending are enrolled but not captured: they wait while another can be chosen.
	Pending []Endpoint
	// Ready counts the endpoints that are ready at all, whatever ports they serve.
	Ready int
}

// Standing says why an endpoint may be chosen, or not.
type Standing uint8

const (
	// Usable may be chosen.
	Usable Standing = iota
	// Pending may be chosen while none is usable.
	Pending
	// NotReady is not ready.
	NotReady
	// NoPort does not serve the port.
	NoPort
	// NoAddress has no address.
	NoAddress
)

var standings = [...]string{"usable", "enrolled, not captured yet", "not ready", "does not serve this port", "has no address"}

func (s Standing) String() string { return standings[s] }

// Considered is told of an endpoint that was looked at.
type Considered func(Endpoint, Standing)

// Gather sorts the endpoints of svc for its port. An endpoint's address has the family of the virtual
// address asked for where it has one, so that an IPv4 client stays on IPv4. considered, unless nil, is told of each.
func Gather(snap *mesh.Snapshot, svc *mesh.Service, port uint16, like netip.Addr, considered Considered) Candidates {
	var c Candidates
	for _, w := range snap.Endpoints(svc.NamespacedName()) {
		target, served := w.Services[svc.NamespacedName()][port]
		e := Endpoint{Workload: w, Target: netip.AddrPortFrom(address(w, like), target)}
		standing := Usable
		switch {
		case !w.Ready && !svc.PublishNotReady:
			standing = NotReady
		case !served || target == 0:
			standing = NoPort
		case !e.Target.Addr().IsValid():
			standing = NoAddress
		case w.Capture == mesh.Pending && !w.HostNetwork:
			standing = Pending
		}
		if standing != NotReady {
			c.Ready++
		}
		switch standing {
		case Usable:
			c.Usable = append(c.Usable, e)
		case Pending:
			c.Pending = append(c.Pending, e)
		}
		if considered != nil {
			considered(e, standing)
		}
	}
	return c
}

// Choose returns one of the endpoints; pick returns a number in [0, n), and nil means Random.
func Choose(es []Endpoint, pick func(n int) int) Endpoint {
	if len(es) == 1 {
		return es[0]
	}
	if pick == nil {
		pick = Random
	}
	return es[pick(len(es))]
}

// Random is uniform in [0, n).
func Random(n int) int { return rand.IntN(n) }

func address(w *mesh.Workload, like netip.Addr) netip.Addr {
	var other netip.Addr
	for _, a := range w.Addresses {
		a = a.Unmap()
		if a.Is4() == like.Unmap().Is4() {
			return a
		}
		if !other.IsValid() {
			other = a
		}
	}
	return other
}
